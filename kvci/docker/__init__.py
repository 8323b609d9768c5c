"""The Docker engine, which sandboxes and images share."""
