"""Commands for this machine: doctor, inspect, serve, images."""

import os
from pathlib import Path
from typing import Any

import rich_click as click

from kvci.cli.asked import INPUTS, asks_for_run, in_panels, spec_of
from kvci.cli.shared import JSON, json_text
from kvci.errors import UserError
from kvci.options import Whole, overrides, takes
from kvci.spec import IMAGES


def show(effective: Any, as_json: bool, start_error: str | None = None) -> None:
    """Print an effective configuration. First print the error if the server did not start."""
    document = {"start_error": start_error} if start_error else {}
    document |= effective.model_dump(mode="json")
    if as_json:
        click.echo(json_text(document))
        return
    for name, value in document.items():
        if name not in ("problems", "warnings"):
            label, unit = (
                name.removesuffix("_mib").replace("_", " "),
                " MiB" * name.endswith("_mib"),
            )
            click.echo(f"{label:18} {'not shown' if value is None else f'{value}{unit}'}")
    for problem in effective.problems:
        click.echo(f"problem            {problem}")


@click.command()
@click.argument("log", type=click.Path(path_type=Path))
@click.option("--kv", metavar="K/V", help="Requested KV type. [default: any]")
@click.option(
    "--context",
    type=Whole(min=1),
    metavar="TOKENS",
    help="Requested context size of each slot, in tokens. [default: any]",
)
@click.option(
    "--slots",
    type=Whole(min=1),
    metavar="COUNT",
    help="Requested number of slots. [default: any]",
)
@click.option(
    "--allow",
    multiple=True,
    type=click.Choice(["converted", "cpu"]),
    help="Kernel path to accept in addition to 'compiled'. [default: no other]",
)
@JSON
@click.pass_context
def inspect(
    ctx: click.Context,
    log: Path,
    kv: str | None,
    context: int | None,
    slots: int | None,
    allow: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show the configuration that a llama-server's LOG proves; exits 1 if another was requested.

    Run the server with `-lv 4`. "not shown" means that the log does not show a value.

    \b
    Examples:
      kvci inspect llama-server.log
      kvci inspect llama-server.log --kv q8_0/q8_0 --context 65536 --slots 8
    """
    from kvci.problems import first_problem
    from kvci.serve.effective import read
    from kvci.serve.proof import Expected, judge
    from kvci.serve.server_log import start_error
    from kvci.spec import Arm

    try:
        text = log.read_text(errors="replace")
        asked_kv = None if kv is None else Arm.parse(kv).kv_type
    except OSError as error:
        raise UserError(f"{log} cannot be read: {error.strerror}; give a server's log.") from None
    except ValueError as error:
        raise UserError(f"--kv {kv} is not valid: {first_problem(error)}.") from None
    asked = Expected(kv_type=asked_kv, context=context, slots=slots, allow=allow)
    found, failure = judge(read(text), asked), start_error(text)
    show(found, as_json, failure)
    ctx.exit(1 if failure or found.problems else 0)


@click.command()
@click.option(
    "--model", required=True, metavar="FILE", help="A .gguf file, or a .toml file of ci/models."
)
@click.option(
    "--kv",
    default="f16/f16",
    show_default=True,
    metavar="K/V",
    help="KV type and flags of the arm.",
)
@takes("context", "slots", "engine")
@click.option(
    "--log",
    type=click.Path(path_type=Path),
    default=Path("llama-server.log"),
    show_default=True,
    metavar="FILE",
    help="File for the server's log.",
)
@click.option("--once", is_flag=True, help="Stop the server after its configuration is printed.")
@JSON
def serve(model: str, kv: str, log: Path, once: bool, as_json: bool, **asked: Any) -> None:
    """Start one server with kvci's fixed flags, and print the configuration that its log proves.

    The server runs until you press Ctrl-C.

    \b
    Examples:
      kvci serve --model model.gguf --kv q8_0/q8_0 --context 65536 --slots 4
      kvci serve --model ci/models/calibration.toml --context 4096 --once
    """
    import signal
    import time

    from kvci.serve.gguf import check, header, locate
    from kvci.serve.server import Server, ServerFailed
    from kvci.spec import load

    spec = load(None, overrides(asked) | {"model": model, "arms": [kv], "dataset": "none"})
    if not spec.verified:
        raise UserError(f"kvci cannot start a server at {spec.engine}; give a llama-server's path.")
    path = locate(spec.model)
    check(spec, header(path))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Server(spec, spec.baseline, path, log) as server:
            show(server.effective, as_json)
            if not once:
                click.echo(f"serving at {server.url}; stop it with Ctrl-C", err=True)
                while server.alive():
                    time.sleep(0.2)
                raise ServerFailed("it ended by itself")
    except KeyboardInterrupt:
        click.echo("stopped", err=True)
    except ServerFailed as error:
        raise UserError(
            f"The server of the arm {spec.baseline.id} failed: {error}; see {log}."
        ) from None


@click.command()
@asks_for_run()
@JSON
@click.pass_context
def doctor(
    ctx: click.Context,
    /,
    experiment: Path | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Check everything that a run needs; exits 1 if a check fails.

    Without an experiment, kvci checks this machine with its own model.

    \b
    Examples:
      kvci doctor
      kvci doctor ci/experiments/demo.toml
    """
    from kvci.doctor import examine, with_calibration

    if not experiment and not asked["inputs"]:
        asked = with_calibration(asked)
    found = []
    for check in examine(spec_of(experiment, asked)):
        found.append(check)
        if not as_json:
            click.echo(check.text())
    if as_json:
        click.echo(json_text(found))
    failed = [check.line() for check in found if check.remedy]
    if failed and os.environ.get("GITHUB_STEP_SUMMARY"):
        from kvci.jobs.outputs import failed as report

        for line in failed:
            report(line)
    if failed:
        ctx.exit(1)


@click.group()
def images() -> None:
    """Pull, show, build or remove the Docker images of a dataset's instances.

    A run pulls its images itself. Use these commands to prepare a machine, or to clean it.

    \b
    Examples:
      kvci images pull --dataset lite --limit 20
      kvci images prune
    """


@images.command("show")
@JSON
def show_images(as_json: bool) -> None:
    """Show the images that kvci pulled: size without shared data, time of the last use, name."""
    from kvci.images.commands import cache_report, summary

    found = cache_report()
    if as_json:
        click.echo(json_text(found))
        return
    for one in found.images:
        click.echo(f"{one.unshared_bytes >> 20:8} MiB  {one.needed[:19]}  {one.names[0]}")
    click.echo(summary(found))


@images.command()
@INPUTS
@click.option("--dataset", metavar="NAME", help="A dataset, written as for kvci run. [required]")
@takes("filter", "instances", "limit")
@click.option(
    "--shard",
    metavar="I/N",
    help="Pull only the images of part I of N parts of the instances. [default: 1/1]",
)
@in_panels([IMAGES])
@click.option(
    "--ledger",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("images.json"),
    show_default=True,
    metavar="FILE",
    help="File for the result of each image.",
)
@click.pass_context
def pull(ctx: click.Context, /, ledger: Path, **asked: Any) -> None:
    """Before a run, pull as many images as the disk can hold; exits 1 if no block can start.

    The run pulls the remaining images when the disk has space for them.

    \b
    Example:
      kvci images pull --dataset lite --limit 20 --disk-budget 100GB
    """
    from kvci.images.commands import pull as pull_images
    from kvci.spec import without_model

    if asked.get("inputs"):
        spec = spec_of(None, asked)
    elif asked["dataset"]:
        asked.pop("inputs")
        spec = without_model(overrides(asked))
    else:
        raise UserError("kvci does not know which images to pull; give --dataset.")
    if not pull_images(spec, ledger, click.echo):
        ctx.exit(1)


@images.command()
@click.option("--built", is_flag=True, help="Also remove the images that kvci images build made.")
def prune(built: bool) -> None:
    """Remove the images that kvci pulled, and the leftovers of killed runs."""
    from kvci.images.commands import prune as prune_images

    click.echo(prune_images(built))


@images.command()
@click.option(
    "--dataset", required=True, metavar="NAME", help="A dataset, written as for kvci run."
)
@takes("filter")
@click.option(
    "--repositories",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="FOLDER",
    help="Folder with each repository's <owner>__<name>.git or .git.tar. [default: clone from "
    "GitHub]",
)
@click.option(
    "--recipes",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File of recipes. [default: kvci's own]",
)
@click.option(
    "--workers",
    type=Whole(min=1),
    default=2,
    show_default=True,
    metavar="COUNT",
    help="Maximum number of images that are built at the same time.",
)
@click.pass_context
def build(
    ctx: click.Context,
    /,
    dataset: str,
    repositories: Path | None,
    recipes: Path | None,
    workers: int,
    **asked: Any,
) -> None:
    """Build the images on this machine, without a registry; exits 1 if an image cannot be built.

    kvci makes the base image from Debian's packages, which needs root.

    \b
    Example:
      kvci images build --dataset rows.jsonl --repositories repositories
    """
    from kvci.images.commands import selected
    from kvci.images.image_build import build as build_images
    from kvci.images.recipe import SHIPPED
    from kvci.spec import without_model

    rows = [one.row for one in selected(without_model(overrides(asked) | {"dataset": dataset}))]
    failed = 0
    for done in build_images(rows, repositories, recipes or SHIPPED, workers):
        failed += bool(done.why)
        click.echo(f"{done.instance}: {done.why or done.image}")
    if failed:
        ctx.exit(1)
