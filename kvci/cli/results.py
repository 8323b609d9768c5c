"""Commands for a run that has ended: compare, record, publish, evidence, import, grade."""

import os
from pathlib import Path
from typing import Any, get_args

import rich_click as click
from click.core import ParameterSource

from kvci.cli.asked import in_panels
from kvci.cli.shared import JSON, REPOSITORY, json_text
from kvci.errors import UserError
from kvci.options import overrides, takes
from kvci.record.places import UNMERGED
from kvci.spec import IMAGES, Spec

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
@click.option(
    "--details", is_flag=True, help="Print all sections as text; json and markdown always have all."
)
def compare(
    names: tuple[str, ...], results: Path, shown: str, as_json: bool, details: bool
) -> None:
    """Compare arms with their baseline.

    Each name is a run folder, a record file, a row id of BENCHMARKS.md, or the folder of a
    mini-swe-agent run.

    \b
    Examples:
      kvci compare runs/RUN-ID
      kvci compare ROW-ID-OF-F16 ROW-ID-OF-Q8
    """
    from kvci.compare.named import compare_named
    from kvci.console import Terminal
    from kvci.report.comparison import markdown, text

    found = compare_named(names, results)
    if as_json or shown == "json":
        click.echo(json_text(found))
    elif shown == "markdown":
        click.echo(markdown(found))
    else:
        text(found, Terminal(), details)


@click.command()
@click.argument("folder", metavar="[RUN]", type=click.Path(path_type=Path), required=False)
@RESULTS
@BENCHMARKS
@click.option(
    "--check", is_flag=True, help="Write nothing; exit 1 if BENCHMARKS.md differs from its records."
)
@click.pass_context
def record(
    ctx: click.Context, folder: Path | None, results: Path, benchmarks: Path, check: bool
) -> None:
    """Write the records and rows of a RUN folder; without a RUN, write all rows again.

    kvci makes the rows from the records, and keeps the text around them.

    \b
    Examples:
      kvci record runs/RUN-ID
      kvci record --check
    """
    from kvci.report.show import record_text
    from kvci.report.update import first_difference, record_run, render_again

    if folder and check:
        raise UserError("--check and a run's folder cannot be combined; give only one of them.")
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
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("--kv", metavar="K/V", help="KV type of the run. [default: as in metadata.json]")
@click.option(
    "--dataset", metavar="NAME", help="Dataset of the run. [default: as in metadata.json]"
)
@RESULTS
@BENCHMARKS
def import_(
    folder: Path, kv: str | None, dataset: str | None, results: Path, benchmarks: Path
) -> None:
    """Make a record of a mini-swe-agent run in FOLDER, with the class of each trial.

    If BENCHMARKS.md already has a row of this run, the row keeps its text.

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
@REPOSITORY
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
    default=UNMERGED,
    show_default=True,
    metavar="BRANCH",
    help="The branch of rows that are not merged yet.",
)
@click.option("--origin", metavar="URL", help="URL of the repository for git. [default: GitHub's]")
@click.option(
    "--review",
    envvar="KVCI_REVIEW",
    default="",
    metavar="WORKFLOW",
    help="Workflow to start for the pull request. [default: none]",
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
    from kvci.review.own_evidence import check_own

    check_own(folder)
    target = target_of(repository, origin, base, branch, review)
    found = publish(folder, target, None if dry_run else github_of(repository))
    if dry_run:
        click.echo(f"{found.title}\n\n{found.body}")
    outcome = found.url or (
        "nothing was sent" if dry_run else "the base branch already has all rows"
    )
    click.echo(outcome)
    if os.environ.get("GITHUB_STEP_SUMMARY"):
        from kvci.jobs.outputs import summary
        from kvci.text import markdown

        summary(f"**{markdown(found.title)}**\n\n{outcome}\n\n{found.body}\n")


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
    """Pack the files from which a RUN's records are made into one archive, and redact them.

    Anyone who has the archive can build the same records from it.

    \b
    Examples:
      kvci evidence runs/RUN-ID --out evidence.tar.gz
      kvci evidence runs/RUN-ID --out /tmp/RUN-ID.tar.gz
    """
    from kvci.record.bundle import write
    from kvci.review.own_evidence import check_own

    check_own(folder)
    click.echo(f"{out}, sha256 {write(folder, out)}")


@click.command()
@click.argument("folder", metavar="[RUN]", type=click.Path(path_type=Path), required=False)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Grade all the patches again, also those with a verdict.",
)
@click.option(
    "--with-harness", is_flag=True, help="Grade the RUN's patches also with swebench eval."
)
@click.option(
    "--dataset", metavar="NAME", help="Dataset, written as for kvci run. [required without RUN]"
)
@click.option("--gold", is_flag=True, help="Grade the dataset's gold patches.")
@click.option(
    "--predictions",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Grade the patches of this .jsonl file (instance_id, model_patch). [default: none]",
)
@takes("filter")
@click.option(
    "--sandbox",
    type=click.Choice(get_args(Spec.model_fields["sandbox"].annotation)),
    help="Where the tests run: bwrap is bubblewrap, for generated instances; docker is Docker, for "
    "instances with an image. auto is the first that can run the instances. [default: auto]",
)
@takes("test_s", "grade_workers")
@in_panels([IMAGES])
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("graded"),
    show_default=True,
    metavar="FOLDER",
    help="Folder for logs and patches.",
)
@JSON
@click.option_panel("For a run", options=["--all", "--with-harness"])
@click.option_panel(
    "For a dataset",
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
    """Grade those patches of a RUN that are not graded yet, or grade patches for a dataset.

    Exits 1 if a patch cannot be graded, or if the harness gives another verdict.

    \b
    Examples:
      kvci grade runs/RUN-ID --with-harness
      kvci grade --dataset lite --predictions preds.jsonl
    """
    from kvci.run.cross_check import cross_check
    from kvci.run.predictions import grade_patches
    from kvci.run.regrade import regrade
    from kvci.spec import without_model
    from kvci.taxonomy import DOUBTFUL, titled

    if bool(folder) == bool(dataset):
        raise UserError("kvci grades either a run or a dataset; give a run's folder or --dataset.")
    of_run = {"--all": everything, "--with-harness": with_harness}
    of_dataset = {"--gold": gold, "--predictions": predictions, "--json": as_json}
    of_dataset |= {
        param.opts[0]: ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE
        for param in ctx.command.params
        # What the environment sets is for this machine, not for this call.
        if param.name in asked and param.name != "grade_workers"
    }
    if wrong := [name for name, value in (of_dataset if folder else of_run).items() if value]:
        raise UserError(f"{wrong[0]} needs {'--dataset' if folder else 'a run folder'}.")
    if folder:
        changed, left = regrade(folder, everything, workers=asked["grade_workers"])
        failed = bool(left)
        for before, after in changed:
            failed |= after.cls in ("I3", "I4")
            classes = f"{titled(after.cls)}, was {titled(before.cls)}"
            doubt = f"; {DOUBTFUL}: {after.doubt}" if after.doubt else ""
            click.echo(f"{after.arm} {after.instance}: {classes}{doubt}")
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
        raise UserError("--dataset needs patches; give either --gold or --predictions FILE.")
    chosen = None if gold else predictions
    spec = without_model(overrides(asked) | {"dataset": dataset})
    graded = grade_patches(spec, chosen, out, lambda line: click.echo(line, err=True))
    if as_json:
        click.echo(json_text(graded))
    else:
        for name, one in graded.items():
            counts = "{}/{} {}/{}".format(*one.fail_to_pass, *one.pass_to_pass)
            doubt = f"; {DOUBTFUL}: {one.doubt}" if one.doubt else ""
            line = f"{name}: {one.verdict}, {counts}, {one.eval_s:.1f} s {one.detail}".rstrip()
            click.echo(line + doubt)
    if any(one.verdict in ("grading_failed", "not_graded") for one in graded.values()):
        ctx.exit(1)
