"""Docker images of instances: built here, pulled, kept within a disk budget, evicted."""
