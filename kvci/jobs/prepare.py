"""The plan job: validate the inputs, forecast the run, and download its earlier evidence."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from kvci.errors import UserError
from kvci.github import GitHub, web
from kvci.jobs.inputs import FILLED, JOB_MAX_MINUTES, Inputs
from kvci.jobs.known import records, shards_of
from kvci.jobs.outputs import output, summary
from kvci.jobs.restore import earliest_start, fetch, fetch_published, uploaded_shards
from kvci.options import BASE_RATE, ICC
from kvci.record.places import RESULTS, UNMERGED
from kvci.record.schema import Record
from kvci.record.store import read_all
from kvci.report.plot import bars
from kvci.report.tables import table
from kvci.run.forecast import Forecast, forecast
from kvci.run.forecast import lines as forecast_lines
from kvci.rundir.documents import now
from kvci.spec import Spec, load
from kvci.text import Markdown, code, markdown
from kvci.units import counted, duration

AFTER_MINUTES = 60
"""The time for the last block, the grading and the uploads, after the time budget."""


@dataclass(frozen=True)
class Earlier:
    """The values of an earlier record that the forecast uses."""

    row_id: str
    trial_s: float
    """The mean time of a trial in its slot, in seconds."""
    base_rate: float | None
    """The share of trials that the baseline resolved; None for 0 and 1, which give no forecast."""


@dataclass(frozen=True)
class Planned:
    """The outputs for the later jobs."""

    run_id: str
    start: str
    shards: tuple[str, ...]
    before: int
    """The number of shards that have evidence of an earlier job."""
    timeout_minutes: int
    publish: bool
    asked: str
    """The digest of the specification. It is in the names of the jobs that run trials, so it is
    public before they begin, and their runners cannot change it."""


def prepare(asked: Inputs, before: Path, github: GitHub | None) -> Planned:
    """Write the outputs and the summary, and put the evidence of earlier jobs into `before`.

    Raises UserError if the inputs are not valid, or if the run cannot be resumed.
    """
    file, fields = asked.asked()
    spec = load(file, fields)
    known = earlier(spec, Path(RESULTS))
    base_rate = asked.base_rate or (known.base_rate if known else None) or BASE_RATE
    trial_s = asked.expected_trial_s or (known.trial_s if known else None)
    found = forecast(spec, base_rate, ICC if asked.icc is None else asked.icc, trial_s)
    name, budget = asked.run_id or new_run_id(spec), asked.time_budget_s
    published = _published(github, name, found.shards) if github and asked.run_id else []
    count = _fetch_evidence(github, name, found.shards, published, before) if github else 0
    start = earliest_start(before) or min((one.start for one in published), default="")
    planned = Planned(
        run_id=name,
        start=start or workflow_start(github),
        shards=found.shards,
        before=count,
        timeout_minutes=_limit_minutes(budget),
        publish=asked.publish,
        asked=spec.asked,
    )
    output(
        run_id=planned.run_id,
        start=planned.start,
        shards=json.dumps(planned.shards),
        before=json.dumps(bool(count)),
        timeout_minutes=str(planned.timeout_minutes),
        publish=json.dumps(planned.publish),
        asked=planned.asked,
    )
    summary(_summary(planned, found, asked, known, bool(published)))
    return planned


def _published(github: GitHub, run_id: str, shards: Sequence[str]) -> list[Record]:
    """Return the records of this run.

    Raises UserError if the run has another number of shards. Raises UserError also if the workflow
    run that started it is still running, because its evidence is not uploaded yet.
    """
    first = re.search(r"-(\d+)$", run_id)
    if first and first[1] != os.environ.get("GITHUB_RUN_ID") and github.is_running(int(first[1])):
        raise UserError(f"{run_id} is still running; resume it when its jobs have ended.")
    published = [one for one in records(github, UNMERGED) if one.run_id == run_id]
    uploaded = uploaded_shards(github, run_id, _branch())
    counts = {shards_of(published)} | {int(shard.partition("/")[2]) for shard in uploaded}
    if other := counts - {0, len(shards)}:
        number = max(other)
        raise UserError(
            f"{run_id} has {counted(number, 'shard')}; resume it with --shards {number}."
        )
    return published


def _branch() -> str:
    return os.environ.get("GITHUB_REF_NAME", "main")


def _fetch_evidence(
    github: GitHub, run_id: str, shards: Sequence[str], published: Sequence[Record], before: Path
) -> int:
    """Put the evidence of this run into `before`, and return its number of shards.

    Raises UserError if the evidence cannot be downloaded.
    """
    uploaded = set(fetch(github, run_id, shards, _branch(), before))
    attested = [record for record in published if record.evidence.where]
    released = {trial.shard for record in attested for trial in record.counted}
    if released - uploaded:
        fetch_published(github, web(), attested, before)
    return len(uploaded | released)


def _limit_minutes(budget_s: float | None) -> int:
    """Return the job's time limit: the pull and the run may each need the whole budget."""
    if budget_s is None:
        return JOB_MAX_MINUTES
    return min(ceil(2 * budget_s / 60) + AFTER_MINUTES, JOB_MAX_MINUTES)


def earlier(spec: Spec, results: Path) -> Earlier | None:
    """Return the values of the newest record of this model, dataset and baseline.

    Returns None if there is no such record, or if it has no trial.
    """
    matching = [
        record
        for record in read_all(results)
        if isinstance(record, Record)
        and record.spec["model"]["name"] == spec.model.name
        and record.spec["model"]["weights"] == spec.model.weights
        and record.dataset == spec.dataset_name
        and record.kv == spec.baseline.kv_type
        and not record.rerun
    ]
    newest = max(matching, key=lambda record: record.start, default=None)
    times = [trial.solve_s for trial in newest.counted if trial.steps] if newest else []
    if not newest or not times:
        return None
    rate = newest.resolved / len(newest.counted)
    return Earlier(newest.row_id, sum(times) / len(times), rate if 0 < rate < 1 else None)


def new_run_id(spec: Spec) -> str:
    """Return the id of a new run. All attempts of a workflow run get this id, to resume it."""
    number = os.environ.get("GITHUB_RUN_ID") or "local"
    return f"{spec.dataset_name}-{spec.model.name}-{number}"


def workflow_start(github: GitHub | None) -> str:
    """Return the UTC time at which the workflow run was created; outside a workflow, now."""
    number = os.environ.get("GITHUB_RUN_ID")
    if github and number:
        return github.run_created(int(number))
    return now()


def _summary(
    planned: Planned, found: Forecast, asked: Inputs, known: Earlier | None, recorded: bool
) -> str:
    trials, answer, assumed, cost = forecast_lines(found)
    cost = cost.removeprefix("cost: ")
    if found.hours is None:
        remedy = f"add {code('--expected-trial 3m')} to the options, or run a few instances first"
        cost = f"not known; {remedy}"
    shards = f"{len(planned.shards)} shards" if len(planned.shards) > 1 else "one machine"
    count = counted(planned.before, "shard")
    resumes = f", resumes the evidence of {count}" if planned.before else ""
    cells = [
        ("run", Markdown(code(planned.run_id) + resumes)),
        ("trials", f"{trials}, on {shards}"),
        ("cost", Markdown(cost)),
        ("assumed", assumed.removeprefix("assumed: ")),
    ]
    if asked.experiment:
        text = (
            f"the file of the experiment {code(asked.experiment)} and the options set them; the "
            f"inputs {', '.join(FILLED)} are not used"
        )
        cells.insert(0, ("values", Markdown(text)))
    if known and not (asked.expected_trial_s and asked.base_rate):
        text = f"speed and base rate from {code(known.row_id)}, if no option gives them"
        cells.append(("estimates", Markdown(text)))
    if asked.time_budget_s:
        budget = duration(asked.time_budget_s)
        text = f"no block begins after {budget}; the next job resumes the run"
        cells.append(("time", text))
    if recorded and not planned.before:
        text = (
            "its record names no evidence; publish the run from the machine that has it, because "
            "any other machine starts the run again"
        )
        cells.append(("evidence", text))
    lines = [f"**{markdown(answer)}**", "", *table(("This run", ""), cells), ""]
    names, chances = list(found.power_of_harm), list(found.power_of_harm.values())
    plot = bars("Chance to show a harm of so many points, %", names, chances) if names else ""
    return "\n".join([*lines, plot])
