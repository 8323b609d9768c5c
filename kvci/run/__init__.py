"""All trials of one spec: the run directory, the scheduler, what it shows."""
