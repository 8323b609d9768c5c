"""Measure the time that grading takes in addition to the eval script, and run `swebench eval`, too.

kvci's overhead is the wall time of grading one patch minus the time of its eval script. The limits
are 1 s in Docker and 0.3 s in bubblewrap. The commits after the base commit are removed once per
image; that time is printed separately.

If the instances have images, `swebench eval` runs the same gold patches with one worker, as kvci
does. If the eval script takes less than 10 s, `swebench eval` should take at least twice kvci's
time per patch. Otherwise it should take at least 13 s more than kvci per patch.
"""

import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import click

from kvci.grade.harness import evaluate
from kvci.grade.patch import grade
from kvci.images.history import history_stripped
from kvci.plan import select
from kvci.run.sandboxes import Sandboxes, choose
from kvci.rundir.documents import Graded
from kvci.sandbox import Caps
from kvci.spec import Spec
from kvci.tasks.dataset import load
from kvci.tasks.instance import Instance

LIMIT_S = {"docker": 1.0, "bwrap": 0.3}
SHORT_S = 10.0
SHORT_LIMIT_RATIO, LONG_LIMIT_S = 2.0, 13.0


def grade_gold(instance: Instance, sandboxes: Sandboxes, folder: Path) -> tuple[Graded, float]:
    """Grade the gold patch; return the grading, and the overhead in seconds."""
    started = time.monotonic()
    patch = instance.row.patch.encode()
    graded = grade(instance.row, patch, lambda: sandboxes.make(instance), folder, 1800)
    return graded, time.monotonic() - started - graded.eval_s


def run_swebench(instances: list[Instance], folder: Path) -> tuple[dict[str, bool], float]:
    """Run `swebench eval`; return instance id -> resolved, and the wall time in seconds."""
    rows = [instance.row for instance in instances]
    started = time.monotonic()
    reports = evaluate(rows, {row.instance_id: row.patch for row in rows}, folder, 1800)
    wall_s = time.monotonic() - started
    return {name: bool(report["resolved"]) for name, report in reports.items()}, wall_s


@click.command()
@click.argument("dataset")
@click.argument("pattern", default="")
@click.option("--sandbox", default="auto", show_default=True)
@click.option("--repeat", default=3, show_default=True, help="How often each patch is graded.")
@click.option("--peer/--no-peer", "with_peer", default=True, help="Also run swebench eval.")
def main(dataset: str, pattern: str, sandbox: str, repeat: int, with_peer: bool) -> None:
    """Grade the gold patches of DATASET whose ids match PATTERN."""
    known = {instance.row.instance_id: instance for instance in load(dataset)}
    spec = Spec.model_validate(
        {"model": {"name": "none", "path": "none"}, "arms": ["f16/f16"], "dataset": dataset}
        | {"filter": pattern, "sandbox": sandbox}
    )
    instances = [known[name] for name in select(list(known), spec)]
    kind, _ = choose(spec, instances)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sandboxes = Sandboxes(kind, folder, Caps())
        verdicts: dict[str, bool] = {}
        overheads_s: list[float] = []
        evals_s: dict[str, list[float]] = defaultdict(list)
        walls_s: dict[str, list[float]] = defaultdict(list)
        if kind == "docker" and not instances[0].files:
            started = time.monotonic()
            for instance in instances:
                history_stripped(instance.row.image, instance.row.base_commit)
            click.echo(f"once per image: {(time.monotonic() - started) / len(instances):.1f} s")
        for instance in instances * repeat:
            graded, overhead_s = grade_gold(instance, sandboxes, folder / instance.row.instance_id)
            name = instance.row.instance_id
            verdicts[name] = graded.verdict == "resolved"
            overheads_s.append(overhead_s)
            evals_s[name].append(graded.eval_s)
            walls_s[name].append(graded.eval_s + overhead_s)
        click.echo(
            f"kvci, {kind}: {len(instances)} gold patches, {sum(verdicts.values())} resolved, "
            f"{repeat} times each; overhead {statistics.median(overheads_s):.2f} s median, "
            f"{max(overheads_s):.2f} s at most (limit {LIMIT_S[kind]} s)"
        )
        if not with_peer or kind != "docker" or instances[0].files:
            return
        click.echo("| eval script | patches | kvci | swebench eval | | equal verdicts |")
        click.echo("|---|---|---|---|---|---|")
        for short in (True, False):
            group = [
                instance
                for instance in instances
                if (statistics.median(evals_s[instance.row.instance_id]) < SHORT_S) is short
            ]
            if not group:
                continue
            resolved, wall_s = run_swebench(group, folder / f"peer-{short}")
            names = [instance.row.instance_id for instance in group]
            equal = sum(resolved.get(name) == verdicts[name] for name in names)
            peer_s = wall_s / len(group)
            kvci_s = statistics.mean(second for name in names for second in walls_s[name])
            ratio = (
                f"{peer_s / kvci_s:.1f} times (limit {SHORT_LIMIT_RATIO})"
                if short
                else f"{peer_s - kvci_s:.1f} s more (limit {LONG_LIMIT_S})"
            )
            click.echo(
                f"| {'<' if short else '>='} {SHORT_S:.0f} s | {len(group)} | {kvci_s:.1f} s | "
                f"{peer_s:.1f} s | {ratio} | {equal} of {len(group)} |"
            )


if __name__ == "__main__":
    main()
