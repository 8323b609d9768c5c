"""GitHub's REST API, as publishing, the review and the workflows' jobs use it."""

from kvci.github.answers import Artifact, PullRequest, WorkflowRun
from kvci.github.operations import FILES, LAST_RUNS, GitHub, run_url, web
from kvci.github.rest import API

__all__ = [
    "API",
    "FILES",
    "LAST_RUNS",
    "Artifact",
    "GitHub",
    "PullRequest",
    "WorkflowRun",
    "run_url",
    "web",
]
