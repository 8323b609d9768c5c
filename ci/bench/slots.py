"""Measure slot use and memory, with many conversations and a server with a known answer time.

Every turn runs a real command in a real bubblewrap sandbox, and every patch is graded. The script
prints the share of slot time in use, and the largest resident memory of kvci's own process. The
share is measured from the first request until the queue is empty: until the last conversation's
first request.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import psutil

from kvci.serve.replay import Reply, Script
from kvci.tasks.calibration import suite

ROOT = Path(__file__).parents[2]
KVCI = [sys.executable, "-c", "from kvci.cli import main; main()"]


def prepare(folder: Path, conversations: int, slots: int, turns: int, turn_s: float) -> Path:
    """Write an experiment file and the script of its replay server; return the experiment file."""
    dataset = f"calibration:functions=4,count={conversations}"
    reads = [Reply(text=f"```bash\necho {turn}; cat *.py\n```") for turn in range(turns - 2)]
    edit = Reply(text="```bash\necho '# seen' >> $(ls *.py)\n```")
    steps = (*reads, edit, Reply(text="```bash\nsubmit\n```"))
    names = [instance.row.instance_id for instance in suite(dataset)]
    script = Script(answers=dict.fromkeys(names, steps), turn_s=turn_s)
    script.write(folder / "script.json")
    experiment = {
        "model": str(ROOT / "ci" / "models" / "calibration.toml"),
        "arms": ["f16/f16"],
        "dataset": dataset,
        "engine": f"replay:{folder / 'script.json'}",
        "context": 4096,
        "slots": slots,
        "block_size": conversations,
        "out": str(folder / "runs"),
    }
    lines = (f"{key} = {json.dumps(value)}\n" for key, value in experiment.items())
    (folder / "experiment.toml").write_text("".join(lines))
    return folder / "experiment.toml"


def request_spans(folder: Path) -> tuple[list[tuple[float, float]], float]:
    """Return each request's start and end, and the time at which the queue became empty.

    All times are in seconds of the clock.
    """
    spans, firsts = [], []
    for path in folder.glob("runs/bench/trials/*/*/*/trajectory.jsonl"):
        steps = [json.loads(line) for line in path.read_text().splitlines()]
        requests = [(step["asked"], step["answered"]) for step in steps if "asked" in step]
        spans += requests
        firsts.append(requests[0][0])
    return spans, max(firsts)


@click.command()
@click.option("--conversations", default=256, show_default=True)
@click.option("--slots", default=64, show_default=True)
@click.option("--turns", default=10, show_default=True)
@click.option("--turn-s", default=4.0, show_default=True)
def main(conversations: int, slots: int, turns: int, turn_s: float) -> None:
    """Print slot use and memory, and their limits of 95 % and 300 MB."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        experiment = prepare(folder, conversations, slots, turns, turn_s)
        largest_bytes = 0
        with (folder / "out").open("w") as out:
            process = subprocess.Popen(
                [*KVCI, "run", str(experiment), "--run-id", "bench"], stdout=out, stderr=out
            )
            while process.poll() is None:
                try:
                    largest_bytes = max(
                        largest_bytes, psutil.Process(process.pid).memory_info().rss
                    )
                except psutil.NoSuchProcess:
                    break
                time.sleep(0.25)
        if process.wait():
            raise click.ClickException((folder / "out").read_text()[-2000:])
        spans, empty = request_spans(folder)
        first = min(start for start, _ in spans)
        used_s = sum(max(0.0, min(end, empty) - start) for start, end in spans)
        share = used_s / (slots * (empty - first))
        graded = len(list(folder.glob("runs/bench/trials/*/*/*/outcome.json")))
    click.echo(
        f"{len(spans)} turns in {graded} conversations; queue empty after {empty - first:.1f} s"
    )
    click.echo(f"slot time in use: {share:.1%} (limit 95 %)")
    click.echo(f"kvci's own process: {largest_bytes / 1e6:.0f} MB (limit 300 MB)")


if __name__ == "__main__":
    main()
