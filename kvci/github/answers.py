"""What kvci keeps of GitHub's answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from kvci.github.rest import Json

BOT = "github-actions[bot]"
"""The user that a job acts as when it uses its own token."""


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
    """A fork's workflow made it."""

    @classmethod
    def read(cls, answer: Json) -> Self:
        run = answer["workflow_run"]
        foreign = run["head_repository_id"] != run["repository_id"]
        made = (answer["id"], answer["name"], answer["created_at"])
        return cls(*made, run["head_branch"], foreign)


@dataclass(frozen=True)
class WorkflowRun:
    created: str
    title: str
    state: Literal["waits", "works", "held", "given up", "done"]
    """waits: jobs wait for a runner, and none is at work. works: a job is at work. held: a job
    waits for an approval. given up: the run ended, and no job ever had a runner. done: it ended."""
    by_job: bool
    """A workflow started it, not a person."""
    jobs: int
    untaken: int
    """The number of jobs that no runner has taken."""

    @classmethod
    def read(cls, run: Json, jobs: Sequence[Json]) -> Self:
        """GitHub ends a job that no runner takes after a day; its run is then "completed", too."""
        untaken = [one for one in jobs if not one["runner_id"]]
        taken = [one for one in jobs if one["runner_id"]]
        state: Literal["waits", "works", "held", "given up", "done"] = "works"
        if run["status"] == "completed":
            state = "given up" if untaken and not taken else "done"
        elif run["status"] == "waiting":
            state = "held"
        elif untaken and all(one["status"] == "completed" for one in taken):
            state = "waits"
        by_job = (run["actor"] or {}).get("login") == BOT  # null if the user was deleted
        counts = (len(jobs), len(untaken))
        return cls(run["created_at"], run["display_title"], state, by_job, *counts)
