"""The connection to the Docker engine. Sandboxes and images share it."""
