"""The nightly job: which experiment goes on tonight, and whether a runner took last night's."""

import itertools
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import Field, ValidationError

from kvci.errors import UserError
from kvci.files import Document, first_problem, sha256_of_file
from kvci.github import LAST_RUNS, GitHub, WorkflowRun
from kvci.jobs.inputs import BUDGET_MAX_MINUTES, EXPERIMENTS, SHARDS_MAX, Name
from kvci.jobs.known import records, shards_of
from kvci.jobs.outputs import summary
from kvci.record.schema import Record
from kvci.report.plot import bars
from kvci.report.tables import table
from kvci.serve.gguf import locate
from kvci.spec import Spec, load
from kvci.tasks.dataset import dataset_sha256
from kvci.tasks.dataset import load as load_dataset
from kvci.units import Minutes, duration

WORKFLOW, JOB = "benchmark.yml", "run"
HEADER = ("Experiment", "Trials", "Tonight")
State = tuple[str, int, int, str]
"""An experiment's name, its trials that are done, all of them, and what becomes of it tonight."""
STUCK_NIGHTS, STUCK_DAYS = 3, 7
"""An experiment that got no new trial in so many nights lets the next one go on; a week after the
last of them it is tried again, for one night."""


class Nightly(Document):
    """ci/experiments/nightly.toml."""

    experiments: tuple[Name, ...]
    """Names of files beside it; each is a run that goes on night after night until it is done."""
    time_budget: Minutes = Field(gt=0, le=BUDGET_MAX_MINUTES)
    """Of a night, for example "5h"; a bare number is minutes."""
    shards: int = Field(1, gt=0, le=SHARDS_MAX)
    """Of a run that begins; one that goes on keeps its own."""


def nightly(github: GitHub, branch: str, results: str) -> bool:
    """Start the next experiment's workflow; False if no runner took last night's, or one is stuck.

    `branch` is the workflow's, `results` the one of unmerged rows. Raises UserError.
    """
    asked = _asked(EXPERIMENTS / "nightly.toml")
    runs = github.runs(WORKFLOW, JOB)
    held = [f"The benchmark of {one.created} waits for somebody's approval.\n\n"
            for one in runs if one.state == "held"]  # fmt: skip
    if working := next((run for run in runs if run.state == "works"), None):
        line = f"**The benchmark of {working.created} is at work.** Nothing more is started.\n"
        summary("".join([*held, line]))
        return not held
    untaken = _untaken(runs)
    if waiting := next((run for run in runs if run.state == "waits"), None):
        said = untaken or f"**The benchmark of {waiting.created} waits for a runner.**"
        summary(f"{said} Nothing more is started.\n")
        return False
    known = records(github, results)
    states: list[State] = []
    chosen, stuck = "", False
    for name in asked.experiments:
        run_id = _run_id(name)
        mine = [record for record in known if record.run_id == run_id]
        done, total = (sum(map(len_of, mine)) for len_of in (_counted, _planned))
        if _finished(mine):
            states.append((name, done, total, "done"))
        elif chosen:
            states.append((name, done, total, "waits"))
        elif _stuck(run_id, mine, runs):
            stuck = True
            nights = f"**stuck**, {STUCK_NIGHTS} nights without a new trial"
            states.append((name, done, total, f"{nights}; see the summaries of its runs"))
        else:
            chosen = name
            shards = shards_of(mine) or asked.shards  # a run stays divided as it began
            github.dispatch(WORKFLOW, branch, _form(asked, name, run_id, shards))
            states.append((name, done, total, "goes on" if mine else "begins"))
    left = "What is left is stuck" if stuck else "All experiments are done"
    head = f"Tonight: {chosen}" if chosen else left
    heads = [untaken, ""] if untaken else []
    summary("".join(held) + "\n".join([*heads, f"**{head}**", "", _table(states)]))
    return not (untaken or stuck or held)


def _table(states: list[State]) -> str:
    """A row each, and how far they are."""
    rows = [
        (name, f"{done}/{total}" if total else "", state) for name, done, total, state in states
    ]
    shares = [done / max(1, total) for _, done, total, _ in states]
    plot = bars("Trials done, %", [name for name, *_ in states], shares)
    return "\n".join([*table(HEADER, rows), "", plot])


def _untaken(runs: list[WorkflowRun]) -> str:
    """What no runner took, in words."""
    lost = list(itertools.takewhile(lambda run: 0 < run.jobs == run.untaken, runs))
    if lost:
        since = f"{lost[-1].created}{' or before' * (len(lost) == LAST_RUNS)}"
        return f"**No runner has taken the benchmark since {since}.**"
    if runs and (last := runs[0]).untaken:
        shards = f"{last.untaken} of {last.jobs} shards"
        return f"**Of the benchmark of {last.created} no runner has taken {shards}.**"
    return ""


def _stuck(run_id: str, mine: list[Record], runs: list[WorkflowRun]) -> bool:
    """The last nights of this experiment, as it is now, were lost on it."""
    week = datetime.now(UTC) - timedelta(days=STUCK_DAYS)
    ends = (datetime.fromisoformat(trial.end) for record in mine for trial in record.trials)
    since = max(ends, default=datetime.min.replace(tzinfo=UTC))
    nights = (
        datetime.fromisoformat(run.created)
        for run in runs
        if run.title.endswith(f" ({run_id})")  # as benchmark.yml calls its runs
        and run.state == "done"
        and run.by_job
    )
    lost = [night for night in nights if night > since]
    return len(lost) >= STUCK_NIGHTS and max(lost) > week


def _form(asked: Nightly, name: str, run_id: str, shards: int) -> dict[str, str]:
    """The benchmark's inputs, as a dispatch takes them: texts."""
    return {
        "experiment": name,
        "run_id": run_id,
        "options": f"--time-budget {duration(60.0 * asked.time_budget)} --shards {shards}",
        "publish": "true",
    }


def _counted(record: Record) -> int:
    return len(record.counted)


def _planned(record: Record) -> int:
    return record.total


def _asked(path: Path) -> Nightly:
    try:
        return Nightly.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not TOML: {error}.") from None
    except ValidationError as error:
        raise UserError(f"{path} is not valid: {first_problem(error)}.") from None


def _run_id(name: str) -> str:
    """An experiment is one run: another spec, model or dataset is another experiment."""
    spec = load(EXPERIMENTS / f"{name}.toml", {})
    instances = load_dataset(spec.dataset)
    digest = spec.hash(_model_sha256(spec), dataset_sha256(instances))
    return f"nightly-{name}-{digest[:12]}"


def _model_sha256(spec: Spec) -> str:
    if spec.model.sha256:
        return spec.model.sha256
    if spec.model.repository:
        raise UserError(
            f"The model {spec.model.name} of a nightly needs its sha256 in ci/models, so that "
            "nobody has to fetch it to know which it is."
        )
    return sha256_of_file(locate(spec.model))


def _finished(records: list[Record]) -> bool:
    return (
        bool(records)
        and len(records) == len(records[0].spec["arms"])
        and all(record.complete for record in records)
    )
