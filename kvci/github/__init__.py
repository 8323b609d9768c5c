"""Access to GitHub's REST API for publishing, for the review and for the workflows' jobs."""

from kvci.github.answers import Artifact, PullRequest, Ran, WorkflowRun
from kvci.github.operations import FILES, LAST_RUNS, GitHub, run_url, web
from kvci.github.rest import API, TooLarge

__all__ = [
    "API",
    "FILES",
    "LAST_RUNS",
    "Artifact",
    "GitHub",
    "PullRequest",
    "Ran",
    "TooLarge",
    "WorkflowRun",
    "run_url",
    "web",
]
