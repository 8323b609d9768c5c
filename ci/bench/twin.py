"""Measure how each strength of the calibration model's twin harms each KV type.

The trials use the training split. A strength is right if q4_0 resolves 20 to 80 % as many trials as
f16, and if most trials that fail with q4_0 still submit a patch.
"""

from collections import Counter

import click

from kvci.console import Terminal
from kvci.demo.known_answer import spec_fields
from kvci.demo.model import twin
from kvci.record.from_run import build
from kvci.run.experiment import run
from kvci.spec import load
from kvci.stats.proportion import wilson
from kvci.taxonomy import Class, titled


@click.command()
@click.argument("strengths", nargs=-1, required=True, type=int)
@click.option("--functions", default=8, show_default=True)
@click.option("--split", default="train", show_default=True)
@click.option("--count", default=100, show_default=True)
@click.option("--out", default="runs", show_default=True)
def main(strengths: tuple[int, ...], functions: int, split: str, count: int, out: str) -> None:
    """Run COUNT instances with each of STRENGTHS, and print a table."""
    click.echo("| strength | functions | KV | resolved | 95 % (Wilson) | lost |")
    click.echo("|---|---|---|---|---|---|")
    for strength in strengths:
        fields = spec_fields("twin", count, out) | {
            "model": {"name": f"twin-{strength}", "path": str(twin(strength)), "weights": "F16"},
            "arms": ("f16/f16", "q8_0/q8_0", "q4_0/q4_0"),
            "dataset": f"calibration:split={split},functions={functions},files=3,count={count}",
            "block_size": 10,
        }
        name = f"twin-{strength}-{split}-{functions}-{count}"
        folder, summary = run(load(None, fields), name, Terminal(stderr=True, soft_wrap=True))
        if not summary.succeeded:
            raise click.ClickException(f"{folder} is not finished; run the same command again.")
        for record in build(folder, row=False):
            low, high = wilson(record.resolved, record.total)
            lost = Counter(trial.cls for trial in record.counted if trial.cls is not Class.OK)
            click.echo(
                f"| {strength} | {functions} | {record.kv} | {record.resolved}/{record.total} | "
                f"{low:.0%} to {high:.0%} | "
                f"{', '.join(f'{count} {titled(cls)}' for cls, count in sorted(lost.items()))} |"
            )


if __name__ == "__main__":
    main()
