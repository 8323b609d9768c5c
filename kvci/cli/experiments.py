"""Commands that plan or run an experiment: demo, plan, run, rerun."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from kvci.cli.asked import asks_for_run, spec_of
from kvci.cli.shared import JSON, RUNS, json_text
from kvci.options import BASE_RATE, ICC, Whole, planning
from kvci.spec import RUN

if TYPE_CHECKING:
    from kvci.spec import Spec


@click.command()
@asks_for_run(more={RUN: ["--run-id"]})
@click.option(
    "--run-id",
    metavar="ID",
    help="Name of the run; if it exists, kvci resumes it. [default: DATASET-MODEL-TIME]",
)
@click.pass_context
def run(ctx: click.Context, /, experiment: Path | None, run_id: str | None, **asked: Any) -> None:
    """Run an experiment; options override the EXPERIMENT file.

    The same command with the same --run-id resumes a run that was stopped or killed. It repeats no
    finished trial.

    \b
    Examples:
      kvci run ci/experiments/demo.toml
      kvci run --model m.gguf --kv f16/f16 --kv q8_0/q8_0 --dataset lite
    """
    run_and_report(ctx, spec_of(experiment, asked), run_id)


def run_and_report(ctx: click.Context, spec: "Spec", run_id: str | None) -> None:
    """Run a specification, and print where the results are.

    Exits 1 if a trial is missing, or if an arm has only infrastructure failures.
    """
    from kvci.console import Terminal
    from kvci.run.experiment import run as run_spec

    path, summary = run_spec(spec, run_id, Terminal(soft_wrap=True))
    step = "record" if spec.rerun else "compare"
    click.echo(f"Full results: {path}. Next: kvci {step} {path}")
    if not summary.succeeded:
        ctx.exit(1)


@click.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--class",
    "classes",
    metavar="CLASSES",
    help="Repeat trials of these classes, separated by commas, for example I1,I2 for I1 "
    "environment and I2 server; kvci/RULES.md lists all classes. "
    "[default: all classes, with --filter]",
)
@click.option(
    "--filter",
    metavar="REGEX",
    help="Repeat trials of instances whose id matches. [default: every instance]",
)
@click.option("--errors", is_flag=True, help="Repeat all trials with an infrastructure failure.")
@RUNS
@click.option(
    "--run-id",
    metavar="ID",
    help="Name of the rerun; if it exists, kvci resumes it. [default: DATASET-MODEL-TIME]",
)
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
    """Run chosen trials of a RUN folder again.

    kvci never compares a rerun with another run. Its rows go to the table of targeted reruns.

    \b
    Examples:
      kvci rerun runs/RUN-ID --errors
      kvci rerun runs/RUN-ID --class A10 --filter django  # A10 test timeout
    """
    from kvci.run.rerun import rerun_spec

    spec = rerun_spec(folder, classes, filter, errors)
    run_and_report(ctx, spec.model_copy(update={"out": out}), run_id)


@click.command()
@asks_for_run()
@planning
@click.option(
    "--measured",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Read the time of a trial from this run folder. [default: none]",
)
@JSON
@click.option_panel("Plan", options=["--base-rate", "--icc", "--expected-trial", "--measured"])
def plan(
    experiment: Path | None,
    base_rate: float | None,
    icc: float | None,
    expected_trial_s: float | None,
    measured: Path | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Show what an experiment will run, what it can show and what it will cost.

    Nothing is run.

    \b
    Examples:
      kvci plan ci/experiments/demo.toml --base-rate 0.9
      kvci plan ci/experiments/demo.toml --expected-trial 3m
    """
    from kvci.run.forecast import forecast, lines

    spec = spec_of(experiment, asked)
    found = forecast(
        spec,
        BASE_RATE if base_rate is None else base_rate,
        ICC if icc is None else icc,
        expected_trial_s,
        measured,
    )
    if as_json:
        click.echo(json_text(found))
        return
    click.echo("\n".join(lines(found)))
    if base_rate is None:
        click.echo(f"assumed: the baseline resolves {BASE_RATE:.0%}; give --base-rate to change it")


@click.command()
@RUNS
@click.option(
    "--instances",
    type=Whole(min=1),
    metavar="COUNT",
    help="Number of instances per model. [default: 20, or 6 with --strong]",
)
@click.option(
    "--strong", is_flag=True, help="Double the planted harm, so that fewer instances are enough."
)
@click.pass_context
def demo(ctx: click.Context, out: str, instances: int | None, strong: bool) -> None:
    """Run an experiment with a known answer, in minutes; exits 1 if the run gives another answer.

    The experiment needs no GPU, no Docker and no download.

    \b
    Examples:
      kvci demo
      kvci demo --strong
    """
    from kvci.console import Terminal
    from kvci.demo.known_answer import demo as run_demo

    if not run_demo(out, instances, Terminal(soft_wrap=True), strong):
        ctx.exit(1)


@click.command(hidden=True)
@RUNS
@click.option("--run-id", default="scripted", show_default=True, help="The run's name.")
@click.option("--sandbox", default="auto", show_default=True, help="auto, bwrap or docker.")
@click.pass_context
def scripted(ctx: click.Context, out: str, run_id: str, sandbox: str) -> None:
    """Run scripted answers whose classes are known; exits 1 if a trial gets another class."""
    from kvci.run.scripted import run_scripted

    if not run_scripted(Path(out), run_id, sandbox):
        ctx.exit(1)
