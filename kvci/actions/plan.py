"""The plan job: what was asked for is valid, what it can show and cost, and who does what."""

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime

from kvci.actions.inputs import Inputs
from kvci.actions.outputs import output, summary
from kvci.publish.github import API, GitHub
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
    timeout_minutes: int
    publish: bool


def plan(asked: Inputs) -> Planned:
    """Write the outputs and the summary. Raises UserError."""
    file, given = asked.asked()
    spec = load(file, given)
    found = forecast(spec, asked.base_rate or BASE_RATE, 0.5)
    budget = asked.time_budget
    planned = Planned(
        run_id=run_id(spec),
        start=started(),
        shards=found.shards,
        timeout_minutes=budget + AFTER_MINUTES if budget else NO_BUDGET_MINUTES,
        publish=asked.publish,
    )
    output(
        run_id=planned.run_id,
        start=planned.start,
        shards=json.dumps(planned.shards),
        timeout_minutes=str(planned.timeout_minutes),
        publish=json.dumps(planned.publish),
    )
    summary(_summary(planned, found))
    return planned


def run_id(spec: Spec) -> str:
    """Of the workflow's run and not of its attempt, so that a job that runs again goes on."""
    number = os.environ.get("GITHUB_RUN_ID") or "local"
    return f"{spec.dataset_name}-{spec.model.name}-{number}"


def started() -> str:
    """When the workflow's run was made, whichever attempt this is; now, if nobody can say."""
    number, token = os.environ.get("GITHUB_RUN_ID"), os.environ.get("GITHUB_TOKEN")
    repository = os.environ.get("GITHUB_REPOSITORY")
    if number and token and repository:
        api = os.environ.get("GITHUB_API_URL", API)
        return GitHub(repository, token, api).run_created(int(number))
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _summary(planned: Planned, found: Forecast) -> str:
    what, answer, *rest = lines(found)
    shards = f"{len(planned.shards)} shards" if len(planned.shards) > 1 else "one machine"
    return "\n".join(
        (f"**{answer}**", "", f"- {what}, on {shards}", *(f"- {line}" for line in rest),
         f"- run `{planned.run_id}`", "")
    )  # fmt: skip
