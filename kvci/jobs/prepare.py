"""The plan job: what was asked for is valid, what it can show and cost, and who does what."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from kvci.errors import UserError
from kvci.github import GitHub, web
from kvci.jobs.inputs import Inputs
from kvci.jobs.known import records, shards_of
from kvci.jobs.outputs import output, summary
from kvci.jobs.restore import began, fetch, fetch_published, shards_left
from kvci.record.places import RESULTS, UNMERGED
from kvci.record.schema import Record
from kvci.record.store import read_all
from kvci.report.plot import bars
from kvci.report.tables import table
from kvci.run.forecast import Forecast, forecast
from kvci.run.forecast import lines as told
from kvci.rundir.documents import now
from kvci.spec import Spec, load
from kvci.units import duration

BASE_RATE = 0.3
"""Where nobody says what the baseline resolves."""
AFTER_MINUTES = 60
"""For what comes after the time budget: the last block, grading, uploads."""
NO_BUDGET_MINUTES = 5 * 24 * 60
"""GitHub's own limit of a self-hosted job."""


@dataclass(frozen=True)
class Earlier:
    """What a record says that helps to plan."""

    row_id: str
    trial_s: float
    """The mean time of a trial in its slot."""
    base_rate: float | None
    """None where all or none resolved, from which nothing follows."""


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


def prepare(asked: Inputs, before: Path, github: GitHub | None) -> Planned:
    """Write the outputs and the summary, and put what earlier jobs left into `before`.

    Raises UserError.
    """
    file, given = asked.asked()
    spec = load(file, given)
    known = earlier(spec, Path(RESULTS))
    base_rate = asked.base_rate or (known.base_rate if known else None) or BASE_RATE
    found = forecast(spec, base_rate, 0.5, asked.trial_s or (known.trial_s if known else None))
    name, budget = asked.run_id or run_id(spec), asked.time_budget_s
    mine = _of_run(github, name, found.shards) if github and asked.run_id else []
    left = _earlier_jobs(github, name, found.shards, mine, before) if github else 0
    planned = Planned(
        run_id=name,
        start=began(before) or min((one.start for one in mine), default="") or started(github),
        shards=found.shards,
        before=left,
        timeout_minutes=_limit_minutes(budget),
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
    summary(_summary(planned, found, asked, known, bool(mine)))
    return planned


def _of_run(github: GitHub, run_id: str, shards: Sequence[str]) -> list[Record]:
    """What is published of it. Raises UserError if it is divided in another way, or at work in the
    workflow's run that named it: nobody knows yet what that leaves."""
    first = re.search(r"-(\d+)$", run_id)
    if first and first[1] != os.environ.get("GITHUB_RUN_ID") and github.is_running(int(first[1])):
        raise UserError(f"{run_id} is still at work; go on with it when its jobs are done.")
    mine = [one for one in records(github, UNMERGED) if one.run_id == run_id]
    left = shards_left(github, run_id, _branch())
    counts = {shards_of(mine)} | {int(shard.partition("/")[2]) for shard in left}
    if other := counts - {0, len(shards)}:
        raise UserError(f"{run_id} is a run of {max(other)} shards; go on with it in as many.")
    return mine


def _branch() -> str:
    return os.environ.get("GITHUB_REF_NAME", "main")


def _earlier_jobs(
    github: GitHub, run_id: str, shards: Sequence[str], published: Sequence[Record], before: Path
) -> int:
    """Put what they left of this run into `before`; of how many shards. Raises UserError."""
    left = set(fetch(github, run_id, shards, _branch(), before))
    named = [record for record in published if record.evidence.where]
    there = {trial.shard for record in named for trial in record.counted}
    if there - left:
        fetch_published(github, web(), named, before)
    return len(left | there)


def _limit_minutes(budget_s: float | None) -> int:
    """The job's time limit. Images are pulled before the run; each may take the whole budget."""
    if budget_s is None:
        return NO_BUDGET_MINUTES
    return min(ceil(2 * budget_s / 60) + AFTER_MINUTES, NO_BUDGET_MINUTES)


def earlier(spec: Spec, results: Path) -> Earlier | None:
    """What the newest record of this model, dataset and baseline says, if there is one."""
    mine = [
        record
        for record in read_all(results)
        if isinstance(record, Record)
        and record.spec["model"]["name"] == spec.model.name
        and record.spec["model"]["weights"] == spec.model.weights
        and record.dataset == spec.dataset_name
        and record.kv == spec.baseline.kv_type
        and not record.rerun
    ]
    newest = max(mine, key=lambda record: record.start, default=None)
    times = [trial.solve_s for trial in newest.counted if trial.steps] if newest else []
    if not newest or not times:
        return None
    rate = newest.resolved / len(newest.counted)
    return Earlier(newest.row_id, sum(times) / len(times), rate if 0 < rate < 1 else None)


def run_id(spec: Spec) -> str:
    """Of the workflow's run and not of its attempt, so that a job that runs again goes on."""
    number = os.environ.get("GITHUB_RUN_ID") or "local"
    return f"{spec.dataset_name}-{spec.model.name}-{number}"


def started(github: GitHub | None) -> str:
    """When the workflow's run was made, whichever attempt this is; now, if nobody can say."""
    number = os.environ.get("GITHUB_RUN_ID")
    if github and number:
        return github.run_created(int(number))
    return now()


def _summary(
    planned: Planned, found: Forecast, asked: Inputs, known: Earlier | None, recorded: bool
) -> str:
    what, answer, assumed, cost = told(found)
    if found.hours is None:
        remedy = "add `--expected-trial 3m` to the options, or run a few instances first"
        cost = f"cost: not known; {remedy}"
    shards = f"{len(planned.shards)} shards" if len(planned.shards) > 1 else "one machine"
    left = f", taken up from {planned.before} earlier jobs" if planned.before else ""
    cells = [("run", f"`{planned.run_id}`{left}"), ("trials", f"{what}, on {shards}")]
    cells += [(label, text) for label, _, text in (one.partition(": ") for one in (cost, assumed))]
    if known and not (asked.trial_s and asked.base_rate):
        cells.append(("taken from", f"`{known.row_id}`, what is not given"))
    if asked.time_budget_s:
        budget = duration(asked.time_budget_s)
        text = f"no block begins after {budget}; the next job resumes"
        cells.append(("time", text))
    if recorded and not planned.before:
        text = (
            "its record names no evidence: publish it from the machine that has it, for any other "
            "begins anew"
        )
        cells.append(("evidence", text))
    lines = [f"**{answer}**", "", *table(("This run", ""), cells), ""]
    names, chances = list(found.power_of_harm), list(found.power_of_harm.values())
    plot = bars("Chance to show a harm of so many points, %", names, chances) if names else ""
    return "\n".join([*lines, plot])
