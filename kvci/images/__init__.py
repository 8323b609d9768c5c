"""Builds and pulls the Docker images of instances, within a disk budget; evicts images."""
