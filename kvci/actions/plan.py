"""The plan job: what was asked for is valid, what it can show and cost, and who does what."""

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from kvci.actions.inputs import Inputs
from kvci.actions.outputs import output, summary
from kvci.actions.restore import began, fetch
from kvci.publish.github import GitHub
from kvci.run.forecast import Forecast, forecast, lines
from kvci.spec import Spec, load

BASE_RATE = 0.3
"""Where nobody says what the baseline resolves."""
AFTER_MINUTES = 60
"""For what comes after the time budget: the last block, grading, uploads."""
NO_BUDGET_MINUTES = 5 * 24 * 60
"""GitHub's own limit of a self-hosted job."""


@dataclass(frozen=True)
class Planned:
    """What the jobs after this one are told."""

    run_id: str
    start: str
    shards: tuple[str, ...]
    before: int
    """Shards of which an earlier job left evidence."""
    timeout_minutes: int
    publish: bool


def plan(asked: Inputs, before: Path, github: GitHub | None) -> Planned:
    """Write the outputs and the summary, and put what earlier jobs left into `before`.

    Raises UserError.
    """
    file, given = asked.asked()
    spec = load(file, given)
    found = forecast(spec, asked.base_rate or BASE_RATE, 0.5)
    name, budget = asked.run_id or run_id(spec), asked.time_budget
    branch = os.environ.get("GITHUB_REF_NAME", "main")
    left = fetch(github, name, found.shards, branch, before) if github else 0
    planned = Planned(
        run_id=name,
        start=began(before) or started(github),
        shards=found.shards,
        before=left,
        timeout_minutes=budget + AFTER_MINUTES if budget else NO_BUDGET_MINUTES,
        publish=asked.publish,
    )
    output(
        run_id=planned.run_id,
        start=planned.start,
        shards=json.dumps(planned.shards),
        before=json.dumps(bool(left)),
        timeout_minutes=str(planned.timeout_minutes),
        publish=json.dumps(planned.publish),
    )
    summary(_summary(planned, found))
    return planned


def run_id(spec: Spec) -> str:
    """Of the workflow's run and not of its attempt, so that a job that runs again goes on."""
    number = os.environ.get("GITHUB_RUN_ID") or "local"
    return f"{spec.dataset_name}-{spec.model.name}-{number}"


def started(github: GitHub | None) -> str:
    """When the workflow's run was made, whichever attempt this is; now, if nobody can say."""
    number = os.environ.get("GITHUB_RUN_ID")
    if github and number:
        return github.run_created(int(number))
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _summary(planned: Planned, found: Forecast) -> str:
    what, answer, *rest = lines(found)
    shards = f"{len(planned.shards)} shards" if len(planned.shards) > 1 else "one machine"
    return "\n".join(
        (f"**{answer}**", "", f"- {what}, on {shards}", *(f"- {line}" for line in rest),
         f"- run `{planned.run_id}`"
         + (f", taken up from {planned.before} earlier jobs" if planned.before else ""), "")
    )  # fmt: skip
