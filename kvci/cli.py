"""One click command per verb, no logic; a verb imports what it needs."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from kvci import __version__
from kvci.errors import UserError
from kvci.files import is_full, no_room


class Verbs(click.Group):
    """Every verb ends a UserError with its one sentence and exit 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            self._fail(ctx, str(error))
        except Exception as error:
            if is_full(error):
                self._fail(
                    ctx, str(no_room(getattr(error, "filename", None) or "what was written"))
                )
            # An engine that is sick may fail anywhere, and that is no bug of kvci's.
            if type(error).__module__.partition(".")[0] not in ("docker", "requests", "urllib3"):
                raise
            self._fail(ctx, f"Docker: {str(error)[:500]}; see to its service.")

    @staticmethod
    def _fail(ctx: click.Context, sentence: str) -> NoReturn:
        """In the log, and where a job has a summary, there too."""
        click.echo(f"kvci: {sentence}", err=True)
        if os.environ.get("GITHUB_STEP_SUMMARY"):
            from kvci.jobs.outputs import failed

            failed(sentence)
        ctx.exit(2)


@click.group(cls=Verbs)
@click.version_option(__version__)
def main() -> None:
    """Which llama.cpp KV-cache type can your coding agent live with, and what does it cost?"""


def _show(effective: Any, as_json: bool) -> None:
    shown = json.loads(effective.model_dump_json())
    if as_json:
        click.echo(json.dumps(shown, indent=1))
        return
    for name, value in shown.items():
        if name not in ("problems", "warnings"):
            text = "not shown" if value is None else value
            click.echo(f"{name.replace('_', ' '):18} {text}")
    for problem in effective.problems:
        click.echo(f"problem            {problem}")


@main.command()
@click.argument("log", type=click.Path(path_type=Path))
@click.option("--kv", help="The KV type that was asked for, K/V.")
@click.option("--context", type=click.IntRange(min=1), help="Tokens per slot asked for.")
@click.option("--slots", type=click.IntRange(min=1), help="Slots asked for.")
@click.option("--allow", multiple=True, type=click.Choice(["converted", "cpu"]))
@click.option("--json", "as_json", is_flag=True)
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
    """Say what a llama-server's LOG proves; exit 1 if it is not what was asked."""
    from kvci.files import first_problem
    from kvci.serve.effective import Expected, judge, read
    from kvci.spec import Arm

    try:
        text = log.read_text(errors="replace")
        asked_kv = None if kv is None else Arm.parse(kv).kv_type
    except OSError as error:
        raise UserError(f"{log} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise UserError(f"--kv {kv} is not valid: {first_problem(error)}.") from None
    asked = Expected(kv_type=asked_kv, context=context, slots=slots, allow=allow)
    found = judge(read(text), asked)
    _show(found, as_json)
    ctx.exit(1 if found.problems else 0)


@main.command()
@click.option("--model", required=True, help="A .gguf file or a file of ci/models.")
@click.option("--kv", default="f16/f16", help="K/V and flags of the arm.")
@click.option("--context", type=int, default=65536, show_default=True, help="Tokens per slot.")
@click.option("--slots", type=int, default=1, show_default=True)
@click.option("--engine", default="auto", show_default=True)
@click.option("--log", type=click.Path(path_type=Path), default=Path("llama-server.log"))
@click.option("--once", is_flag=True, help="Stop after the configuration is printed.")
@click.option("--json", "as_json", is_flag=True)
def serve(
    model: str, kv: str, context: int, slots: int, engine: str, log: Path, once: bool, as_json: bool
) -> None:
    """Start one arm and print its effective configuration."""
    import signal
    import time

    from kvci.serve.gguf import check, header, locate
    from kvci.serve.server import Server, ServerFailed
    from kvci.spec import load

    asked = {"model": model, "arms": [kv], "context": context, "slots": slots, "engine": engine}
    spec = load(None, asked | {"dataset": "none"})
    if not spec.verified:
        raise UserError(
            f"{engine} is not a server that kvci can start; give a llama-server's path."
        )
    path = locate(spec.model)
    check(spec, header(path))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Server(spec, spec.baseline, path, log) as server:
            _show(server.effective, as_json)
            if not once:
                click.echo(f"serving at {server.url}; end with Ctrl-C", err=True)
                while server.alive():
                    time.sleep(0.2)
                raise ServerFailed("it ended by itself")
    except KeyboardInterrupt:
        click.echo("stopped", err=True)
    except ServerFailed as error:
        raise UserError(f"The arm {spec.baseline.id} was not served: {error}.") from None


INPUTS = click.option(
    "--inputs", envvar="KVCI_INPUTS", help="A workflow's inputs as JSON; options win."
)
ASKED = (
    INPUTS,
    click.argument("experiment", type=click.Path(path_type=Path), required=False),
    click.option("--model", help="A .gguf file or a file of ci/models."),
    click.option(
        "--kv", "--arm", "arms", multiple=True, help="K/V and flags; the first is the baseline."
    ),
    click.option(
        "--dataset",
        help="lite, verified, multilingual, a .jsonl or .parquet file, a hub's OWNER/NAME, or "
        "calibration:split=test,functions=8,count=20.",
    ),
    click.option("--instances", help="Ids with commas between."),
    click.option("--filter", help="A regular expression on instance ids."),
    click.option("--limit", type=int),
    click.option("--context", type=int, help="Tokens per slot."),
    click.option("--slots", type=int),
    click.option("--seeds", help="Comma-separated."),
    click.option("--temperature", type=float),
    click.option("--max-steps", type=int),
    click.option("--max-tokens", type=int, help="Tokens per answer."),
    click.option("--sandbox", help="auto, bwrap or docker."),
    click.option("--engine", help="auto, embedded, a llama-server's path, or a URL (unverified)."),
    click.option(
        "--time-budget", "time_budget_s", type=float, help="Seconds; no block begins near it."
    ),
    click.option(
        "--validate",
        "preflight_first",
        is_flag=True,
        default=None,
        help="The gold and the empty patch of every instance before any trial.",
    ),
    click.option(
        "--grade-network", is_flag=True, default=None, help="Grading may reach the network."
    ),
    click.option("--shard", help="I/N"),
    click.option("--start", help="When the run began, for its shards on several hosts."),
    click.option("--margin", type=float, help="The harm that would not matter, as a share."),
)


ASKED_OF_IMAGES = (
    click.option(
        "--mirror",
        envvar="KVCI_MIRROR",
        help="A registry to ask for images in place of their own.",
    ),
    click.option(
        "--disk-reserve",
        "disk_reserve_gb",
        type=float,
        envvar="KVCI_DISK_RESERVE",
        help="Of Docker's disk, in GB, never used [10].",
    ),
    click.option(
        "--disk-budget",
        "disk_budget_gb",
        type=float,
        envvar="KVCI_DISK_BUDGET",
        help="What images of ours may take, each counted without what it shares, in GB.",
    ),
    click.option("--pull-workers", type=int, help="Images pulled at a time [4]."),
    click.option("--pull-beside", is_flag=True, default=None, help="Pull while trials run."),
)


def _asks_of_images(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how images come here, and what of the disk they may take."""
    for option in reversed(ASKED_OF_IMAGES):
        verb = option(verb)
    return verb


def _asks(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what to run, over an EXPERIMENT file."""
    for option in reversed((*ASKED, *ASKED_OF_IMAGES)):
        verb = option(verb)
    return verb


@main.command()
@_asks
@click.option("--out", help="The folder of runs.", envvar="KVCI_RUNS")
@click.option("--run-id", help="Take this run up again, or give a new one its name.")
@click.pass_context
def run(
    ctx: click.Context,
    /,
    experiment: Path | None,
    run_id: str | None,
    arms: tuple[str, ...],
    seeds: str | None,
    **asked: Any,
) -> None:
    """Run an EXPERIMENT file, or what the options say; options win."""
    _run(ctx, _spec(experiment, arms, seeds, asked), run_id)


@main.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--class", "classes", help="Classes with commas between, for example I1,I2.")
@click.option("--filter", help="A regular expression on instance ids.")
@click.option("--errors", is_flag=True, help="All that infrastructure ended.")
@click.option("--out", help="The folder of runs.", envvar="KVCI_RUNS", default="runs")
@click.option("--run-id", help="Take this rerun up again, or give a new one its name.")
@click.pass_context
def rerun(
    ctx: click.Context,
    folder: Path,
    classes: str | None,
    filter: str | None,
    errors: bool,
    out: str,
    run_id: str | None,
) -> None:
    """Run some instances of a RUN again; its rows go to the table of targeted reruns."""
    from kvci.run.rerun import rerun_spec

    spec = rerun_spec(folder, classes, filter, errors)
    _run(ctx, spec.model_copy(update={"out": out}), run_id)


@main.command()
@_asks
@click.option(
    "--base-rate",
    type=click.FloatRange(0, 1, True, True),
    required=True,
    help="The share that the baseline resolves, as far as is known.",
)
@click.option(
    "--icc",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.5,
    show_default=True,
    help="The share of the variance that lies between instances.",
)
@click.option("--trial-s", type=click.FloatRange(0, min_open=True), help="Seconds of one trial.")
@click.option("--measured", type=click.Path(path_type=Path), help="A run to take the speed from.")
@click.option("--json", "as_json", is_flag=True)
def plan(
    experiment: Path | None,
    arms: tuple[str, ...],
    seeds: str | None,
    base_rate: float,
    icc: float,
    trial_s: float | None,
    measured: Path | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Say what a spec will run, what it can show, and what it will cost."""
    from kvci.run.forecast import forecast, lines

    spec = _spec(experiment, arms, seeds, asked)
    found = forecast(spec, base_rate, icc, trial_s, measured)
    click.echo(found.model_dump_json(indent=1) if as_json else "\n".join(lines(found)))


@main.command()
@_asks
@click.option("--out", help="The folder of runs.", envvar="KVCI_RUNS")
@click.option("--json", "as_json", is_flag=True)
@click.pass_context
def doctor(
    ctx: click.Context,
    /,
    experiment: Path | None,
    arms: tuple[str, ...],
    seeds: str | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Look at all that a run needs; exit 1 if something would spoil it."""
    from kvci.doctor import examine, with_own

    if not experiment and not asked["inputs"]:
        arms, asked = arms or ("f16/f16",), with_own(asked)
    found = []
    for check in examine(_spec(experiment, arms, seeds, asked)):
        found.append(check)
        if not as_json:
            click.echo(f"{'FAIL' if check.remedy else 'ok':4}  {check.name:14} {check.found}")
            if check.remedy:
                click.echo(f"      {'':14} {check.remedy}")
    if as_json:
        click.echo(json.dumps([check.model_dump(mode="json") for check in found], indent=1))
    failed = [f"{check.name}: {check.found} {check.remedy}" for check in found if check.remedy]
    if failed and os.environ.get("GITHUB_STEP_SUMMARY"):
        from kvci.jobs.outputs import failed as say

        for line in failed:
            say(line)
    if failed:
        ctx.exit(1)


@main.command()
@click.option("--out", help="The folder of runs.", envvar="KVCI_RUNS", default="runs")
@click.option("--instances", type=click.IntRange(min=1), help="[20; 6 with --strong]")
@click.option("--strong", is_flag=True, help="Twice the outliers, so that fewer instances do.")
@click.pass_context
def demo(ctx: click.Context, out: str, instances: int | None, strong: bool) -> None:
    """An experiment with a known answer, on this machine in minutes; exit 1 if it does not come."""
    from rich.console import Console

    from kvci.demo.known_answer import demo as run_demo

    if not run_demo(out, instances, Console(soft_wrap=True), strong):
        ctx.exit(1)


@main.command()
@click.argument("folder", metavar="[RUN]", type=click.Path(path_type=Path), required=False)
@click.option("--all", "everything", is_flag=True, help="Of the RUN, all patches.")
@click.option("--with-harness", is_flag=True, help="Of the RUN, compare with swebench eval.")
@click.option("--dataset", help="As for kvci run, in place of a RUN.")
@click.option("--gold", is_flag=True, help="Of the dataset, the gold patches.")
@click.option(
    "--predictions",
    type=click.Path(path_type=Path),
    help="Of the dataset, a .jsonl file of instance_id and model_patch.",
)
@click.option("--filter", help="A regular expression on instance ids.")
@click.option("--sandbox", help="auto, bwrap or docker.")
@click.option("--test-s", type=float, help="Seconds that an instance's tests may take [1800].")
@_asks_of_images
@click.option("--out", type=click.Path(path_type=Path), default=Path("graded"), show_default=True)
@click.option("--json", "as_json", is_flag=True)
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
    """Grade again what of a RUN could not be graded, or patches of a dataset.

    Exit 1 if one could not be graded, or the harness disagrees.
    """
    from kvci.run.cross_check import beside_harness
    from kvci.run.predictions import grade_patches
    from kvci.run.regrade import regrade
    from kvci.spec import without_model

    if bool(folder) == bool(dataset):
        raise UserError("Give either a run's folder or --dataset.")
    theirs = {"--all": everything, "--with-harness": with_harness}
    mine = {"--gold": gold, "--predictions": predictions, "--json": as_json}
    mine |= {f"--{name.replace('_', '-')}": value for name, value in asked.items()}
    if wrong := [name for name, value in (mine if folder else theirs).items() if value]:
        raise UserError(f"{wrong[0]} goes with {'--dataset' if folder else 'a RUN'} alone.")
    if folder:
        changed, left = regrade(folder, everything)
        failed = bool(left)
        for before, after in changed:
            failed |= after.cls in ("I3", "I4")
            click.echo(f"{after.arm} {after.instance}: {after.cls}, was {before.cls}")
        for late in left:
            click.echo(f"{late.arm} {late.instance}: not graded, and still {late.cls}")
        if with_harness:
            count, lines = beside_harness(folder)
            for line in lines:
                click.echo(line)
            click.echo(f"{count} patches graded by the harness too, {len(lines)} differences")
            failed |= bool(lines)
        ctx.exit(1 if failed else 0)
    if gold == bool(predictions):
        raise UserError("Say which patches: give either --gold or --predictions FILE.")
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


@main.command()
@click.argument("folder", metavar="[RUN]", type=click.Path(path_type=Path), required=False)
@click.option("--results", type=click.Path(path_type=Path), default=Path("ci/results"))
@click.option("--benchmarks", type=click.Path(path_type=Path), default=Path("BENCHMARKS.md"))
@click.option("--check", is_flag=True, help="Exit 1 if BENCHMARKS.md is not what the records give.")
@click.pass_context
def record(
    ctx: click.Context, folder: Path | None, results: Path, benchmarks: Path, check: bool
) -> None:
    """Write the records of a RUN folder and its rows; without one, all rows again."""
    from kvci.report.show import said
    from kvci.report.update import first_difference, record_run, render_again

    if folder and check:
        raise UserError("Give either a run's folder or --check.")
    if folder:
        done = record_run(folder, results, benchmarks)
        for one in done.records:
            click.echo(said(one))
        click.echo(f"rows: {done.benchmarks}")
    elif not check:
        render_again(results, benchmarks)
        click.echo(f"rows: {benchmarks}")
    elif difference := first_difference(results, benchmarks):
        click.echo(difference)
        ctx.exit(1)


@main.command()
@click.argument("names", nargs=-1, required=True, metavar="A [B ...]")
@click.option("--results", type=click.Path(path_type=Path), default=Path("ci/results"))
@click.option("--format", "shown", type=click.Choice(["text", "markdown", "json"]), default="text")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def compare(names: tuple[str, ...], results: Path, shown: str, as_json: bool) -> None:
    """Compare arms with the first: run folders, records, row ids, earlier runs' folders."""
    from rich.console import Console

    from kvci.compare.named import compare_named
    from kvci.report.comparison import markdown, text

    found = compare_named(names, results)
    if as_json or shown == "json":
        click.echo(found.model_dump_json(indent=1))
    elif shown == "markdown":
        click.echo(markdown(found))
    else:
        text(found, Console())


@main.command("import")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--kv", help="Its KV type, K/V, where the folder does not say it.")
@click.option("--dataset", help="Its dataset, where the folder does not say it.")
@click.option("--results", type=click.Path(path_type=Path), default=Path("ci/results"))
@click.option("--benchmarks", type=click.Path(path_type=Path), default=Path("BENCHMARKS.md"))
def import_(
    folder: Path, kv: str | None, dataset: str | None, results: Path, benchmarks: Path
) -> None:
    """Make a record of an earlier run of mini-swe-agent in DIR."""
    from kvci.report.show import said
    from kvci.report.update import import_run

    click.echo(said(import_run(folder, results, benchmarks, kv, dataset)))
    click.echo(f"rows: {benchmarks}")


@main.command()
@click.option("--out", help="The folder of runs.", envvar="KVCI_RUNS", default="runs")
@click.option("--run-id", default="scripted", show_default=True)
@click.option("--sandbox", default="auto", show_default=True)
@click.pass_context
def scripted(ctx: click.Context, out: str, run_id: str, sandbox: str) -> None:
    """A run with a known table, by the replay engine; exit 1 if it is another."""
    from kvci.run.scripted import run_scripted

    if not run_scripted(Path(out), run_id, sandbox):
        ctx.exit(1)


@main.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--repository", envvar="GITHUB_REPOSITORY", required=True, help="OWNER/NAME on GitHub."
)
@click.option(
    "--base",
    envvar="KVCI_BASE",
    default="main",
    show_default=True,
    help="The branch to merge into.",
)
@click.option("--branch", default="kvci/results", show_default=True, help="The rolling branch.")
@click.option("--origin", help="git's URL of the repository, if not GitHub's.")
@click.option(
    "--review", envvar="KVCI_REVIEW", default="", help="A workflow to start for the pull request."
)
@click.option("--dry-run", is_flag=True, help="Show the pull request; send nothing.")
def publish(
    folder: Path,
    repository: str,
    base: str,
    branch: str,
    origin: str | None,
    review: str,
    dry_run: bool,
) -> None:
    """Send a RUN's rows in a pull request, its evidence in a release; GITHUB_TOKEN is taken."""
    from kvci.publish.pull_request import github_of, publish, target_of

    target = target_of(repository, origin, base, branch, review)
    found = publish(folder, target, None if dry_run else github_of(repository))
    if dry_run:
        click.echo(f"{found.title}\n\n{found.body}")
    said = found.url or ("nothing was sent" if dry_run else "the base has all rows already")
    click.echo(said)
    if os.environ.get("GITHUB_STEP_SUMMARY"):
        from kvci.jobs.outputs import summary

        summary(f"**{found.title}**\n\n{said}\n\n{found.body}\n")


@main.group()
def images() -> None:
    """The Docker images of a dataset's instances."""


@images.command()
@click.option("--json", "as_json", is_flag=True)
def show(as_json: bool) -> None:
    """Those that kvci pulled: what each takes for itself, and when it was last needed."""
    from kvci.images.commands import cache_report, summary

    found = cache_report()
    if as_json:
        click.echo(found.model_dump_json(indent=1))
        return
    for one in found.images:
        click.echo(f"{one.unshared_bytes >> 20:8} MiB  {one.needed[:19]}  {one.names[0]}")
    click.echo(summary(found))


@images.command()
@INPUTS
@click.option("--dataset", help="As for kvci run.")
@click.option("--instances", help="Ids with commas between.")
@click.option("--filter", help="A regular expression on instance ids.")
@click.option("--limit", type=int)
@click.option("--shard", help="I/N")
@_asks_of_images
@click.option(
    "--ledger", type=click.Path(dir_okay=False, path_type=Path), default=Path("images.json")
)
@click.pass_context
def pull(ctx: click.Context, /, ledger: Path, instances: str | None, **asked: Any) -> None:
    """Get those that the disk holds, before a run; exit 1 if no block has its images."""
    from kvci.images.commands import pull as pull_images
    from kvci.spec import without_model

    asked["instances"] = _names(instances)
    if form := asked.pop("inputs"):
        spec = _over(form, None, asked)
    elif asked["dataset"]:
        spec = without_model(asked)
    else:
        raise UserError("Say whose images: give --dataset.")
    if not pull_images(spec, ledger, click.echo):
        ctx.exit(1)


@images.command()
@click.option("--built", is_flag=True, help="Those that kvci images build made, too.")
def prune(built: bool) -> None:
    """Let go all that kvci pulled or made, and what killed runs left."""
    from kvci.images.commands import prune as prune_images

    click.echo(prune_images(built))


@images.command()
@click.option("--dataset", required=True, help="As for kvci run.")
@click.option("--filter", default="", help="A regular expression on instance ids.")
@click.option(
    "--repositories",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="A folder of <owner>__<name>.git or .git.tar; GitHub's if not given.",
)
@click.option("--recipes", type=click.Path(path_type=Path), help="Recipes in place of kvci's own.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True)
@click.pass_context
def build(
    ctx: click.Context,
    dataset: str,
    filter: str,
    repositories: Path | None,
    recipes: Path | None,
    workers: int,
) -> None:
    """Build them here, where no registry can be reached; exit 1 if one could not be."""
    from kvci.images.build import build as build_images
    from kvci.images.commands import selected
    from kvci.images.recipe import SHIPPED
    from kvci.spec import without_model

    rows = [one.row for one in selected(without_model({"dataset": dataset, "filter": filter}))]
    failed = 0
    for done in build_images(rows, repositories, recipes or SHIPPED, workers):
        failed += bool(done.why)
        click.echo(f"{done.instance}: {done.why or done.image}")
    if failed:
        ctx.exit(1)


def _spec(
    experiment: Path | None, arms: tuple[str, ...], seeds: str | None, asked: dict[str, Any]
) -> Any:
    from kvci.spec import load

    try:
        numbers = [int(seed) for seed in seeds.split(",")] if seeds else None
    except ValueError:
        raise UserError(f"--seeds {seeds} are not whole numbers with commas between.") from None
    names, form = _names(asked.pop("instances", None)), asked.pop("inputs", None)
    lists = {
        "arms": list(arms) or None,
        "instances": names,
    }
    given = asked | lists | {"seeds": numbers}
    return _over(form, experiment, given) if form else load(experiment, given)


def _names(text: str | None) -> list[str] | None:
    return [name.strip() for name in text.split(",")] if text else None


def _over(form: str, experiment: Path | None, options: dict[str, Any]) -> Any:
    """The spec of a workflow's inputs with the options laid over them."""
    from kvci.jobs.inputs import inputs
    from kvci.spec import load

    file, laid = inputs(form).asked()
    given = {name: value for name, value in options.items() if value is not None}
    return load(experiment or file, laid | given)


def _run(ctx: click.Context, spec: Any, run_id: str | None) -> None:
    from rich.console import Console

    from kvci.run.experiment import run as run_spec

    path, summary = run_spec(spec, run_id, Console(soft_wrap=True))
    click.echo(f"Counts only; kvci compare {path} says what they mean. All of it lies there.")
    if not summary.happened:
        ctx.exit(1)


@main.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
def evidence(folder: Path, out: Path) -> None:
    """Put what a RUN's records rest on into one archive, redacted."""
    from kvci.record.bundle import write

    click.echo(f"{out}, sha256 {write(folder, out)}")


@main.group()
def ci() -> None:
    """The jobs of a workflow, a verb each; on a laptop the terminal hears what they say."""


@ci.command("plan")
@click.option("--inputs", "form", envvar="KVCI_INPUTS", default="{}", help="As JSON.")
@click.option("--before", type=click.Path(path_type=Path), default=Path("before"))
def ci_plan(form: str, before: Path) -> None:
    """Validate a workflow's inputs, and say what the run can show and what comes next."""
    from kvci.jobs.inputs import inputs
    from kvci.jobs.prepare import plan
    from kvci.publish.pull_request import github_of

    there = {"GITHUB_TOKEN", "GITHUB_REPOSITORY"} <= os.environ.keys()
    plan(inputs(form), before, github_of(os.environ["GITHUB_REPOSITORY"]) if there else None)


@ci.command("collect")
@click.argument("archives", metavar="EVIDENCE", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The run's new folder.")
@click.option("--before", type=click.Path(path_type=Path), help="What earlier jobs left.")
@click.option("--summary/--no-summary", default=True, help="Say what it shows so far.")
def ci_collect(archives: Path, out: Path, before: Path | None, summary: bool) -> None:
    """Make one run of the archives in EVIDENCE, and of BEFORE for shards that left none there."""
    from kvci.jobs.collect import collect, summarize

    records = collect(archives, out, before)
    if summary:
        summarize(records)
    for record in records:
        click.echo(f"{record.row_id}: {record.resolved} of {record.total} resolved")


@ci.command("evidence")
@click.option("--out", envvar="KVCI_RUNS", default="runs", help="The folder of runs.")
@click.option("--run-id", required=True)
@click.option("--shard", default="1/1", show_default=True)
def ci_evidence(out: str, run_id: str, shard: str) -> None:
    """Pack what a shard of a run has so far, for the job's artifact."""
    from kvci.jobs.pack import evidence

    evidence(out, run_id, shard)


@ci.command("review")
@click.argument("number", type=click.IntRange(min=1))
@click.option("--repository", envvar="GITHUB_REPOSITORY", required=True, help="OWNER/NAME.")
@click.pass_context
def ci_review(ctx: click.Context, number: int, repository: str) -> None:
    """Hold the results of pull request NUMBER against their evidence; exit 1 if they are not it.

    Its files are read through the API, and nothing of it is run.
    """
    from kvci.github import run_url, web
    from kvci.publish.pull_request import github_of
    from kvci.review.job import review_pull

    event = os.environ.get("GITHUB_EVENT_PATH")
    told = json.loads(Path(event).read_text()) if event else None
    done = review_pull(github_of(repository), number, web(), run_url(repository), told)
    if done is None:
        click.echo(f"#{number} touches no results")
        return
    found, passes = done
    for line in (*found.problems, *found.unattested):
        click.echo(line)
    ctx.exit(0 if passes else 1)


@ci.command("restore")
@click.argument("before", metavar="EVIDENCE", type=click.Path(path_type=Path))
@click.option("--out", envvar="KVCI_RUNS", default="runs", help="The folder of runs.")
@click.option("--run-id", required=True)
@click.option("--shard", default="1/1", show_default=True)
def ci_restore(before: Path, out: str, run_id: str, shard: str) -> None:
    """Go on with what another machine did, if this one knows less of it."""
    from kvci.jobs.restore import restore

    for line in restore(before, out, run_id, shard):
        click.echo(line)


@ci.command("nightly")
@click.option("--repository", envvar="GITHUB_REPOSITORY", required=True, help="OWNER/NAME.")
@click.option("--branch", envvar="GITHUB_REF_NAME", default="main", show_default=True)
@click.option("--results", default="kvci/results", show_default=True, help="Of unmerged rows.")
@click.pass_context
def ci_nightly(ctx: click.Context, repository: str, branch: str, results: str) -> None:
    """Start the next experiment of ci/experiments/nightly.toml; exit 1 if no runner takes them."""
    from kvci.jobs.nightly import nightly
    from kvci.publish.pull_request import github_of

    if not nightly(github_of(repository), branch, results):
        ctx.exit(1)


@ci.command("rerun")
@click.option("--inputs", "form", envvar="KVCI_INPUTS", required=True, help="As JSON.")
@click.option("--out", envvar="KVCI_RUNS", default="runs", help="The folder of runs.")
@click.option("--run-id", required=True)
@click.option("--before", type=click.Path(path_type=Path), default=Path("before"))
@click.pass_context
def ci_rerun(ctx: click.Context, form: str, out: str, run_id: str, before: Path) -> None:
    """Run some instances of a run again, which lies on this machine, or its evidence in BEFORE."""
    from kvci.jobs.inputs import rerun_inputs
    from kvci.jobs.repeat import rerun

    spec = rerun(rerun_inputs(form), out, run_id, before)
    _run(ctx, spec.model_copy(update={"out": out}), run_id)


@ci.command("find")
@click.option("--inputs", "form", envvar="KVCI_INPUTS", required=True, help="As JSON.")
@click.option("--repository", envvar="GITHUB_REPOSITORY", required=True, help="OWNER/NAME.")
@click.option("--branch", envvar="GITHUB_REF_NAME", default="main", show_default=True)
@click.option("--before", type=click.Path(path_type=Path), default=Path("before"))
def ci_find(form: str, repository: str, branch: str, before: Path) -> None:
    """Get the evidence of the run whose instances are to be run again."""
    from kvci.jobs.inputs import rerun_inputs
    from kvci.jobs.repeat import find
    from kvci.publish.pull_request import github_of

    find(rerun_inputs(form), branch, before, github_of(repository))
