"""Compute the share that the calibration model resolves on the suite's test split, for its card.

`kvci run --model ci/models/calibration.toml --kv f16/f16 --kv q8_0/q8_0 --kv q4_0/q4_0 --engine
embedded --context 4096 --slots 2 --max-steps 10 --max-tokens 128 --dataset
calibration:split=test,functions=16,files=3,count=100` makes one of the runs. Give this script the
folders of all runs.
"""

from collections import Counter
from pathlib import Path

import click

from kvci.record.from_run import build
from kvci.stats.proportion import wilson
from kvci.tasks.calibration import generate


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
def main(runs: tuple[Path, ...]) -> None:
    """Print the share of resolved bugs with its interval, and counts by kind of bug, for RUNS."""
    resolved: Counter[str] = Counter()
    total: Counter[str] = Counter()
    click.echo(
        "| functions x files | model and KV type | resolved | 95 % (Wilson) |\n|---|---|---|---|"
    )
    for run in runs:
        for record in build(run, row=False):
            if not record.complete:
                raise click.ClickException(f"{run} is not finished; resume it with --run-id.")
            for trial in record.counted:
                split, size, seed = trial.instance.removeprefix("calibration__").split("-")
                functions, files = size.split("x")
                bug = generate("test", int(seed), int(functions), int(files))
                assert split == "test" and bug.row.instance_id == trial.instance
                total[bug.kind] += 1
                resolved[bug.kind] += trial.cls == "OK"
            low, high = wilson(record.resolved, record.total)
            arm = f"{record.model}, {record.kv}"
            rate = f"{record.resolved}/{record.total}"
            click.echo(f"| {size} | {arm} | {rate} | {low:.1%} to {high:.1%} |")
    click.echo("\n| kind | resolved |\n|---|---|")
    for kind in sorted(total):
        click.echo(f"| {kind} | {resolved[kind]}/{total[kind]} |")


if __name__ == "__main__":
    main()
