"""llama-server: its flags, its process, and the configuration that its own log proves."""
