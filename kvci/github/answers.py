"""The parts of GitHub's answers that kvci keeps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from kvci.github.rest import Json

BOT = "github-actions[bot]"
"""The name under which a job acts if it uses its own token, GITHUB_TOKEN."""


@dataclass(frozen=True)
class PullRequest:
    number: int
    url: str
    head: str
    """The commit to merge."""
    base: str
    """The commit to merge into."""
    into: str
    """The branch to merge into."""
    default: str
    """The repository's default branch."""
    labels: tuple[str, ...]

    @classmethod
    def read(cls, answer: Json) -> Self:
        head, base = answer["head"], answer["base"]
        labels = tuple(label["name"] for label in answer["labels"])
        commits, default = (head["sha"], base["sha"]), base["repo"]["default_branch"]
        return cls(answer["number"], answer["html_url"], *commits, base["ref"], default, labels)


@dataclass(frozen=True)
class Artifact:
    number: int
    name: str
    created: str
    branch: str
    foreign: bool
    """True if the workflow run of a fork made the artifact."""

    @classmethod
    def read(cls, answer: Json) -> Self:
        run = answer["workflow_run"]
        foreign = run["head_repository_id"] != run["repository_id"]
        made = (answer["id"], answer["name"], answer["created_at"])
        return cls(*made, run["head_branch"], foreign)


@dataclass(frozen=True)
class Ran:
    """What GitHub knows about a workflow run that ran trials. Its runners cannot change it."""

    created: str
    updated: str
    """The time of the last change; for a workflow run that has not ended, now."""
    asked: frozenset[str]
    """The digests of what was asked, in the names of the jobs that ran trials."""


@dataclass(frozen=True)
class WorkflowRun:
    created: str
    title: str
    state: Literal["waits", "works", "held", "given up", "done"]
    """waits: jobs wait for a runner, and no job is running. works: a job is running. held: a job
    waits for an approval. given up: the workflow run ended, and no job ever had a runner. done: the
    workflow run ended in another way."""
    by_job: bool
    """True if a workflow started the workflow run, False if a person did."""
    jobs: int
    untaken: int
    """The number of jobs that no runner has taken."""

    @classmethod
    def read(cls, run: Json, jobs: Sequence[Json]) -> Self:
        """Return a workflow run with its state, from GitHub's answers about the run and its jobs.

        If no runner takes a job for a day, GitHub ends the job. The workflow run then also has the
        status "completed".
        """
        untaken = [one for one in jobs if not one["runner_id"]]
        taken = [one for one in jobs if one["runner_id"]]
        state: Literal["waits", "works", "held", "given up", "done"] = "works"
        if run["status"] == "completed":
            state = "given up" if untaken and not taken else "done"
        elif run["status"] == "waiting":
            state = "held"
        elif untaken and all(one["status"] == "completed" for one in taken):
            state = "waits"
        by_job = (run["actor"] or {}).get(
            "login"
        ) == BOT  # the actor is null if the user was deleted
        counts = (len(jobs), len(untaken))
        return cls(run["created_at"], run["display_title"], state, by_job, *counts)
