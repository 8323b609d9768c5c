"""The nightly job: start the next experiment, and report experiments that make no progress."""

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import Field, ValidationError

from kvci.errors import UserError
from kvci.files import Document, read_toml, sha256_of_file
from kvci.github import LAST_RUNS, GitHub, WorkflowRun
from kvci.jobs.inputs import BUDGET_MAX_MINUTES, EXPERIMENTS, SHARDS_MAX, Name
from kvci.jobs.known import records, shards_of
from kvci.jobs.outputs import summary
from kvci.problems import first_problem
from kvci.record.schema import Record
from kvci.report.plot import bars
from kvci.report.tables import table
from kvci.serve.gguf import locate
from kvci.spec import Spec, load
from kvci.tasks.dataset import dataset_sha256
from kvci.tasks.dataset import load as load_dataset
from kvci.text import Markdown, markdown
from kvci.units import Minutes, duration, shown

WORKFLOW, JOB = "benchmark.yml", "run"
HEADER = ("Experiment", "Trials", "Tonight")
State = tuple[str, int, int, str]
"""An experiment's name, its finished trials, all its trials, and what happens to it tonight."""
STUCK_NIGHTS, STUCK_DAYS = 3, 7
"""An experiment is stuck after STUCK_NIGHTS nights without a new trial. Then the next experiment
runs. STUCK_DAYS days after the last of these nights, kvci tries the stuck experiment again for one
night."""


class Nightly(Document):
    """The content of ci/experiments/nightly.toml."""

    experiments: tuple[Name, ...]
    """The names of experiment files in this folder. Each experiment is one run, which is resumed
    every night until it is done."""
    time_budget: Minutes = Field(gt=0, le=BUDGET_MAX_MINUTES)
    """The time per night, for example "5h"; a number without a unit is in minutes."""
    shards: int = Field(1, gt=0, le=SHARDS_MAX)
    """The number of shards of a new run. A run that has started keeps its number of shards."""


def nightly(github: GitHub, branch: str, results: str) -> bool:
    """Start the workflow of the next experiment.

    Returns False if no runner took a job of an earlier workflow run, if an experiment is stuck, or
    if a workflow run waits for an approval. `branch` is the workflow's branch, `results` the branch
    of unmerged rows. Raises UserError if nightly.toml or an experiment is not valid, or if GitHub
    fails.
    """
    config = _config(EXPERIMENTS / "nightly.toml")
    runs = github.runs(WORKFLOW, JOB)
    held = [f"The benchmark from {markdown(one.created)} needs an approval.\n\n"
            for one in runs if one.state == "held"]  # fmt: skip
    if working := next((run for run in runs if run.state == "works"), None):
        line = f"**The benchmark from {markdown(working.created)} is running.**"
        summary("".join([*held, f"{line} No other benchmark is started.\n"]))
        return not held
    untaken = _untaken(runs)
    if waiting := next((run for run in runs if run.state == "waits"), None):
        line = untaken or f"**The benchmark from {markdown(waiting.created)} waits for a runner.**"
        summary(f"{line} No other benchmark is started.\n")
        return False
    known = records(github, results)
    states: list[State] = []
    chosen, stuck = "", False
    for name in config.experiments:
        run_id = _run_id(name)
        own = [record for record in known if record.run_id == run_id]
        done, total = sum(len(one.counted) for one in own), sum(one.total for one in own)
        if _finished(own):
            states.append((name, done, total, "done"))
        elif chosen:
            states.append((name, done, total, "waits"))
        elif _stuck(run_id, own, runs):
            stuck = True
            nights = f"**stuck**, {STUCK_NIGHTS} nights without a new trial"
            line = f"{nights}; see the summaries of its runs"
            states.append((name, done, total, Markdown(line)))
        else:
            chosen = name
            shards = shards_of(own) or config.shards  # a run never changes its number of shards
            github.dispatch(WORKFLOW, branch, _form(config, name, run_id, shards))
            states.append((name, done, total, "resumes" if own else "starts"))
    rest = "The remaining experiments are stuck" if stuck else "All experiments are done"
    head = f"Tonight: {markdown(chosen)}" if chosen else rest
    heads = [untaken, ""] if untaken else []
    summary("".join(held) + "\n".join([*heads, f"**{head}**", "", _table(states)]))
    return not (untaken or stuck or held)


def _table(states: list[State]) -> str:
    """Return a table with a row for each experiment, and a plot of their progress."""
    rows = [
        (name, f"{done}/{total}" if total else "", state) for name, done, total, state in states
    ]
    shares = [done / max(1, total) for _, done, total, _ in states]
    plot = bars("Trials done, %", [name for name, *_ in states], shares)
    return "\n".join([*table(HEADER, rows), "", plot])


def _untaken(runs: list[WorkflowRun]) -> str:
    """Return a sentence about jobs that no runner took; empty if runners took all of them."""
    lost = list(itertools.takewhile(lambda run: 0 < run.jobs == run.untaken, runs))
    if lost:
        since = f"{markdown(lost[-1].created)}{' or before' * (len(lost) == LAST_RUNS)}"
        return f"**No runner has taken the benchmark since {since}.**"
    if runs and (last := runs[0]).untaken:
        shards = f"{last.untaken} of {last.jobs} shards"
        return f"**No runner has taken {shards} of the benchmark from {markdown(last.created)}.**"
    return ""


def _stuck(run_id: str, own: list[Record], runs: list[WorkflowRun]) -> bool:
    """True if the last nights of this run gave no new trial (see STUCK_NIGHTS)."""
    week = datetime.now(UTC) - timedelta(days=STUCK_DAYS)
    ends = (datetime.fromisoformat(trial.end) for record in own for trial in record.trials)
    since = max(ends, default=datetime.min.replace(tzinfo=UTC))
    nights = (
        datetime.fromisoformat(run.created)
        for run in runs
        if run.title.endswith(f" ({run_id})")  # the run-name of benchmark.yml
        and run.state == "done"
        and run.by_job
    )
    lost = [night for night in nights if night > since]
    return len(lost) >= STUCK_NIGHTS and max(lost) > week


def _form(config: Nightly, name: str, run_id: str, shards: int) -> dict[str, str]:
    """Return the inputs of benchmark.yml; a dispatch accepts only texts."""
    return {
        "experiment": name,
        "run_id": run_id,
        "options": f"--time-budget {duration(60.0 * config.time_budget)} --shards {shards}",
        "publish": "true",
    }


def _config(path: Path) -> Nightly:
    try:
        return Nightly.model_validate(read_toml(path, "ci/README.md for an example"))
    except ValidationError as error:
        problem = first_problem(error, units=shown(Nightly))
        raise UserError(f"{path} is not valid: {problem}.") from None


def _run_id(name: str) -> str:
    """Return the id of an experiment's run. A changed file, model or dataset gives another id."""
    spec = load(EXPERIMENTS / f"{name}.toml", {})
    instances = load_dataset(spec.dataset)
    digest = spec.hash(_model_sha256(spec), dataset_sha256(instances))
    return f"nightly-{name}-{digest[:12]}"


def _model_sha256(spec: Spec) -> str:
    if spec.model.sha256:
        return spec.model.sha256
    if spec.model.repository:
        raise UserError(
            f"The model {spec.model.name} has no sha256, and nightly needs one to identify it "
            "without a download; add it to the model's file in ci/models."
        )
    return sha256_of_file(locate(spec.model))


def _finished(records: list[Record]) -> bool:
    return (
        bool(records)
        and len(records) == len(records[0].spec["arms"])
        and all(record.complete for record in records)
    )
