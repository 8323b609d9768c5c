"""Commands of the workflows' jobs. Outside a workflow, they print summaries to the terminal."""

import json
import os
from pathlib import Path

import rich_click as click

from kvci.cli.experiments import run_and_report
from kvci.cli.shared import REPOSITORY, RUNS
from kvci.options import Whole
from kvci.record.places import UNMERGED

FORM = click.option(
    "--inputs",
    "form",
    envvar="KVCI_INPUTS",
    required=True,
    metavar="JSON",
    help="The workflow's inputs.",
)
RUN_ID = click.option("--run-id", required=True, metavar="ID", help="The run's id.")
SHARD = click.option(
    "--shard", default="1/1", show_default=True, metavar="I/N", help="The shard of the run."
)
BEFORE = click.option(
    "--before",
    type=click.Path(path_type=Path),
    default=Path("before"),
    show_default=True,
    metavar="FOLDER",
    help="Folder for the evidence of earlier jobs.",
)
BRANCH = click.option(
    "--branch",
    envvar="GITHUB_REF_NAME",
    default="main",
    show_default=True,
    metavar="BRANCH",
    help="The workflow's branch.",
)


@click.group()
def ci() -> None:
    """Run the jobs of the workflows; each job has a command."""


@ci.command()
@click.option(
    "--inputs",
    "form",
    envvar="KVCI_INPUTS",
    default="{}",
    show_default=True,
    metavar="JSON",
    help="The workflow's inputs.",
)
@BEFORE
def prepare(form: str, before: Path) -> None:
    """Validate a workflow's inputs, forecast the run, and download the evidence of earlier jobs."""
    from kvci.jobs.inputs import inputs
    from kvci.jobs.prepare import prepare as prepare_run
    from kvci.publish.pull_request import github_of

    known = {"GITHUB_TOKEN", "GITHUB_REPOSITORY"} <= os.environ.keys()
    github = github_of(os.environ["GITHUB_REPOSITORY"]) if known else None
    prepare_run(inputs(form), before, github)


@ci.command()
@click.argument("before", metavar="EVIDENCE", type=click.Path(path_type=Path))
@RUNS
@RUN_ID
@SHARD
def restore(before: Path, out: str, run_id: str, shard: str) -> None:
    """Resume a run from a folder EVIDENCE, if it has trials that this machine's run lacks."""
    from kvci.jobs.restore import restore as restore_run

    for line in restore_run(before, out, run_id, shard):
        click.echo(line)


@ci.command()
@RUNS
@RUN_ID
@SHARD
def pack(out: str, run_id: str, shard: str) -> None:
    """Pack the evidence that a shard has so far, for the job's artifact; then check it.

    If the check fails, the artifact is kept, so that another job can resume the run.
    """
    from kvci.jobs.pack import pack_shard
    from kvci.review.own_evidence import check_own

    if packed := pack_shard(out, run_id, shard):
        check_own(*packed)


@ci.command()
@click.argument("archives", metavar="EVIDENCE", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER",
    help="The new folder of the run.",
)
@click.option(
    "--before",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder with evidence of earlier jobs, for shards that EVIDENCE lacks. [default: none]",
)
@click.option(
    "--asked",
    envvar="ASKED",
    default="",
    metavar="DIGEST",
    help="The digest of the specification that the plan asked for. [default: any]",
)
@click.option(
    "--summary/--no-summary", default=True, show_default=True, help="Write the job's summary."
)
def collect(archives: Path, out: Path, before: Path | None, asked: str, summary: bool) -> None:
    """Merge the shards' archives below EVIDENCE into one run folder, and check it."""
    from kvci.jobs.collect import collect as collect_run
    from kvci.jobs.collect import summarize

    records = collect_run(archives, out, before, asked)
    if summary:
        summarize(records)
    for record in records:
        click.echo(f"{record.row_id}: {record.resolved} of {record.total} resolved")


@ci.command()
@click.argument("number", type=Whole(min=1))
@REPOSITORY
@click.pass_context
def review(ctx: click.Context, number: int, repository: str) -> None:
    """Check the results of pull request NUMBER against their evidence; exits 1 if the check fails.

    kvci reads the pull request's files through the API, and runs nothing of it.
    """
    from kvci.github import run_url, web
    from kvci.publish.pull_request import github_of
    from kvci.review.comment import whole
    from kvci.review.job import review_pull

    event = os.environ.get("GITHUB_EVENT_PATH")
    started_by = json.loads(Path(event).read_text()) if event else None
    done = review_pull(github_of(repository), number, web(), run_url(repository), started_by)
    if done is None:
        click.echo(f"#{number} changes no results")
        return
    found, passes = done
    for line in whole(found):
        click.echo(line)
    ctx.exit(0 if passes else 1)


@ci.command()
@REPOSITORY
@BRANCH
@click.option(
    "--results",
    default=UNMERGED,
    show_default=True,
    metavar="BRANCH",
    help="The branch of rows that are not merged yet.",
)
@click.pass_context
def nightly(ctx: click.Context, repository: str, branch: str, results: str) -> None:
    """Start the next experiment of ci/experiments/nightly.toml.

    Exits 1 if no runner took a job of an earlier workflow run, if an experiment is stuck, or if a
    workflow run waits for an approval.
    """
    from kvci.jobs.nightly import nightly as start
    from kvci.publish.pull_request import github_of

    if not start(github_of(repository), branch, results):
        ctx.exit(1)


@ci.command()
@FORM
@REPOSITORY
@BRANCH
@BEFORE
def find(form: str, repository: str, branch: str, before: Path) -> None:
    """Download the evidence of the run whose trials rerun.yml repeats."""
    from kvci.jobs.inputs import rerun_inputs
    from kvci.jobs.repeat import find as find_evidence
    from kvci.publish.pull_request import github_of

    find_evidence(rerun_inputs(form), branch, before, github_of(repository))


@ci.command()
@FORM
@RUNS
@RUN_ID
@BEFORE
@click.pass_context
def repeat(ctx: click.Context, form: str, out: str, run_id: str, before: Path) -> None:
    """Run chosen trials of an earlier run again.

    The earlier run is in this machine's run folder, or in the evidence of --before.
    """
    from kvci.jobs.inputs import rerun_inputs
    from kvci.jobs.repeat import repeat as spec_of_repeat

    spec = spec_of_repeat(rerun_inputs(form), out, run_id, before)
    run_and_report(ctx, spec.model_copy(update={"out": out}), run_id)
