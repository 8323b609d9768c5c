"""llama-server: its flags, its process, and what its own log proves."""
