"""Verbs about a run that ended: compare, record, publish, evidence, import, grade."""

import json
import os
from pathlib import Path
from typing import Any

import rich_click as click

from kvci.cli.asked import in_panels
from kvci.errors import UserError
from kvci.options import Quantity
from kvci.spec import IMAGES
from kvci.units import seconds

RESULTS = click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("ci/results"),
    show_default=True,
    help="The folder of records.",
)
BENCHMARKS = click.option(
    "--benchmarks",
    type=click.Path(path_type=Path),
    default=Path("BENCHMARKS.md"),
    show_default=True,
    help="The file of rows.",
)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="A [B ...]")
@RESULTS
@click.option(
    "--format",
    "shown",
    type=click.Choice(["text", "markdown", "json"]),
    default="text",
    show_default=True,
    help="How to print it.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("--details", is_flag=True, help="Print all sections; json and markdown always do.")
def compare(
    names: tuple[str, ...], results: Path, shown: str, as_json: bool, details: bool
) -> None:
    """Compare arms with their baseline.

    A name is a run folder, a record file, a row id of BENCHMARKS.md, or an earlier run's folder.

    \b
    Examples:
      kvci compare runs/RUN-ID
      kvci compare ROW-ID-OF-F16 ROW-ID-OF-Q8
    """
    from rich.console import Console

    from kvci.compare.named import compare_named
    from kvci.report.comparison import markdown, text

    found = compare_named(names, results)
    if as_json or shown == "json":
        click.echo(found.model_dump_json(indent=1))
    elif shown == "markdown":
        click.echo(markdown(found))
    else:
        text(found, Console(), details)


@click.command()
@click.argument("folder", metavar="[RUN]", type=click.Path(path_type=Path), required=False)
@RESULTS
@BENCHMARKS
@click.option(
    "--check", is_flag=True, help="Only check; exits 1 if BENCHMARKS.md differs from its records."
)
@click.pass_context
def record(
    ctx: click.Context, folder: Path | None, results: Path, benchmarks: Path, check: bool
) -> None:
    """Write the records and rows of a RUN folder; without one, write all rows again.

    Rows are derived from records, and the text around them is kept.

    \b
    Examples:
      kvci record runs/RUN-ID
      kvci record --check
    """
    from kvci.report.show import record_text
    from kvci.report.update import first_difference, record_run, render_again

    if folder and check:
        raise UserError("Give a run's folder or --check, not both.")
    if folder:
        done = record_run(folder, results, benchmarks)
        for one in done.records:
            click.echo(record_text(one))
        click.echo(f"rows: {done.benchmarks}")
    elif not check:
        render_again(results, benchmarks)
        click.echo(f"rows: {benchmarks}")
    elif difference := first_difference(results, benchmarks):
        click.echo(difference)
        ctx.exit(1)


@click.command("import")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--kv", metavar="K/V", help="Its KV type, if the folder does not name it.")
@click.option("--dataset", metavar="NAME", help="Its dataset, if the folder does not name it.")
@RESULTS
@BENCHMARKS
def import_(
    folder: Path, kv: str | None, dataset: str | None, results: Path, benchmarks: Path
) -> None:
    """Make a record of an earlier run of mini-swe-agent in DIR, each trial with its class.

    A row that stands in BENCHMARKS.md already keeps its text.

    \b
    Examples:
      kvci import results/qwen3-4b-q8 --kv q8_0/q8_0
      kvci import results/qwen3-4b-f16 --kv f16/f16 --dataset lite
    """
    from kvci.report.show import record_text
    from kvci.report.update import import_run

    click.echo(record_text(import_run(folder, results, benchmarks, kv, dataset)))
    click.echo(f"rows: {benchmarks}")


@click.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--repository",
    envvar="GITHUB_REPOSITORY",
    required=True,
    metavar="OWNER/NAME",
    help="The repository on GitHub.",
)
@click.option(
    "--base",
    envvar="KVCI_BASE",
    default="main",
    show_default=True,
    metavar="BRANCH",
    help="The branch to merge into.",
)
@click.option(
    "--branch",
    default="kvci/results",
    show_default=True,
    metavar="BRANCH",
    help="The branch of rows that are not merged yet.",
)
@click.option("--origin", metavar="URL", help="git's URL of the repository. [default: GitHub's]")
@click.option(
    "--review",
    envvar="KVCI_REVIEW",
    default="",
    metavar="WORKFLOW",
    help="A workflow to start for the pull request. [default: none]",
)
@click.option("--dry-run", is_flag=True, help="Print the pull request; send nothing.")
def publish(
    folder: Path,
    repository: str,
    base: str,
    branch: str,
    origin: str | None,
    review: str,
    dry_run: bool,
) -> None:
    """Open a pull request with the rows of a RUN folder; its evidence goes into a release.

    The token is read from GITHUB_TOKEN.

    \b
    Examples:
      kvci publish runs/RUN-ID --repository OWNER/NAME --dry-run
      kvci publish runs/RUN-ID --repository OWNER/NAME --base main
    """
    from kvci.publish.pull_request import github_of, publish, target_of

    target = target_of(repository, origin, base, branch, review)
    found = publish(folder, target, None if dry_run else github_of(repository))
    if dry_run:
        click.echo(f"{found.title}\n\n{found.body}")
    outcome = found.url or ("nothing was sent" if dry_run else "the base has all rows already")
    click.echo(outcome)
    if os.environ.get("GITHUB_STEP_SUMMARY"):
        from kvci.jobs.outputs import summary

        summary(f"**{found.title}**\n\n{outcome}\n\n{found.body}\n")


@click.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="The archive to write, for example evidence.tar.gz.",
)
def evidence(folder: Path, out: Path) -> None:
    """Pack the files that a RUN's records rest on, redacted, into one archive.

    Anyone who has the archive builds the same records from it.

    \b
    Examples:
      kvci evidence runs/RUN-ID --out evidence.tar.gz
      kvci evidence runs/RUN-ID --out /tmp/RUN-ID.tar.gz
    """
    from kvci.record.bundle import write

    click.echo(f"{out}, sha256 {write(folder, out)}")


@click.command()
@click.argument("folder", metavar="[RUN]", type=click.Path(path_type=Path), required=False)
@click.option("--all", "everything", is_flag=True, help="All patches of the RUN, graded or not.")
@click.option(
    "--with-harness", is_flag=True, help="Grade the RUN's patches with swebench eval too."
)
@click.option("--dataset", metavar="NAME", help="A dataset, as for kvci run, in place of a RUN.")
@click.option("--gold", is_flag=True, help="Grade the dataset's gold patches.")
@click.option(
    "--predictions",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Grade the patches of this .jsonl file (instance_id, model_patch).",
)
@click.option("--filter", metavar="REGEX", help="Only instances whose id matches.")
@click.option("--sandbox", metavar="KIND", help="auto, bwrap or docker. [default: auto]")
@click.option(
    "--test-time",
    "--test-s",
    "test_s",
    type=Quantity(seconds),
    metavar="DURATION",
    help="Time limit of an instance's tests. [default: 30m]",
)
@in_panels([IMAGES])
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("graded"),
    show_default=True,
    metavar="FOLDER",
    help="Where logs and patches go.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option_panel("Of a run", options=["--all", "--with-harness"])
@click.option_panel(
    "Of a dataset",
    options=["--dataset", "--gold", "--predictions", "--filter", "--sandbox", "--test-time"],
)
@click.pass_context
def grade(
    ctx: click.Context,
    /,
    folder: Path | None,
    everything: bool,
    with_harness: bool,
    dataset: str | None,
    gold: bool,
    predictions: Path | None,
    out: Path,
    as_json: bool,
    **asked: Any,
) -> None:
    """Grade the patches of a RUN that could not be graded, or patches of a dataset.

    Exits 1 if a patch could not be graded, or the harness disagrees.

    \b
    Examples:
      kvci grade runs/RUN-ID --with-harness
      kvci grade --dataset lite --predictions preds.jsonl
    """
    from kvci.run.cross_check import cross_check
    from kvci.run.predictions import grade_patches
    from kvci.run.regrade import regrade
    from kvci.spec import without_model
    from kvci.taxonomy import titled

    if bool(folder) == bool(dataset):
        raise UserError("Give a run's folder or --dataset.")
    of_run = {"--all": everything, "--with-harness": with_harness}
    of_dataset = {"--gold": gold, "--predictions": predictions, "--json": as_json}
    of_dataset |= {f"--{name.replace('_', '-')}": value for name, value in asked.items()}
    if wrong := [name for name, value in (of_dataset if folder else of_run).items() if value]:
        raise UserError(f"{wrong[0]} needs {'--dataset' if folder else 'a run folder'}.")
    if folder:
        changed, left = regrade(folder, everything)
        failed = bool(left)
        for before, after in changed:
            failed |= after.cls in ("I3", "I4")
            classes = f"{titled(after.cls)}, was {titled(before.cls)}"
            click.echo(f"{after.arm} {after.instance}: {classes}")
        for trial in left:
            click.echo(f"{trial.arm} {trial.instance}: not graded, still {titled(trial.cls)}")
        if with_harness:
            count, lines = cross_check(folder)
            for line in lines:
                click.echo(line)
            click.echo(f"{count} patches graded by the harness too, {len(lines)} differences")
            failed |= bool(lines)
        ctx.exit(1 if failed else 0)
    if gold == bool(predictions):
        raise UserError("Say which patches to grade: either --gold or --predictions FILE.")
    chosen = None if gold else predictions
    spec = without_model({"dataset": dataset} | asked)
    graded = grade_patches(spec, chosen, out, lambda line: click.echo(line, err=True))
    if as_json:
        shown = {name: json.loads(one.model_dump_json()) for name, one in graded.items()}
        click.echo(json.dumps(shown, indent=1))
    else:
        for name, one in graded.items():
            counts = "{}/{} {}/{}".format(*one.fail_to_pass, *one.pass_to_pass)
            click.echo(f"{name}: {one.verdict}, {counts}, {one.eval_s:.1f} s {one.detail}".rstrip())
    if any(one.verdict in ("grading_failed", "not_graded") for one in graded.values()):
        ctx.exit(1)
