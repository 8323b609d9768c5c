"""From a spec to a finished run: the whole way of the data in one function."""

import contextlib
import hashlib
import signal
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import psutil
from rich.console import Console

from kvci.errors import UserError
from kvci.files import sha256_of_file
from kvci.plan import blocks
from kvci.run.directory import Outcome, RunDirectory
from kvci.run.scheduler import Scheduler
from kvci.run.summary import Summary, summarize, table
from kvci.sandbox import bwrap, cgroup
from kvci.serve.model import check, header, locate
from kvci.serve.server import command
from kvci.spec import Spec
from kvci.tasks.calibration import suite


class Stopped(BaseException):
    """SIGINT or SIGTERM: what is finished is on disk, the rest is for the next `kvci run`."""


def _stop(number: int, _: FrameType | None) -> None:
    """Whatever a thread waits for is a child of ours, so its end sets the thread free.

    Python's resource tracker ends by itself, and complains when it is killed.
    """
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "resource_tracker" not in " ".join(child.cmdline()):
                child.kill()
    raise Stopped(number)


def run(spec: Spec, run_id: str | None, console: Console) -> tuple[Path, Summary]:
    """Run what is not done yet, and say what came out. Raises UserError before anything is written.

    Only the calibration suite under bubblewrap can be run so far.
    """
    if not spec.dataset.startswith("calibration"):
        raise UserError("kvci run knows only the dataset calibration:... so far.")
    if spec.sandbox == "docker":
        raise UserError("kvci run knows only the sandbox bwrap so far.")
    if spec.engine.startswith("http"):
        raise UserError("kvci run takes a plain URL as engine later; give a llama-server.")
    instances = {instance.row.instance_id: instance for instance in suite(spec.dataset)}
    planned = blocks(list(instances), spec)
    command(spec.engine)
    model = locate(spec.model)
    check(spec, header(model))
    sandbox = f"bwrap, {bwrap.check()}"
    cgroup.sweep()
    digest = hashlib.sha256()
    for instance in instances.values():
        digest.update(instance.row.model_dump_json().encode())
    start = datetime.now(UTC).strftime("%Y%m%d_%H%M%S")
    path = Path(spec.out) / (run_id or f"{spec.dataset_name}-{spec.model.name}-{start}")
    names = tuple(name for block in planned for name in block.instances)
    with RunDirectory(path.resolve()) as directory:
        manifest = directory.open(spec, sha256_of_file(model), digest.hexdigest(), sandbox, names)

        def tell(outcome: Outcome) -> None:
            console.print(
                f"{outcome.arm:12} {outcome.instance}: exit {outcome.exit}, "
                f"verdict {outcome.verdict}, class {outcome.cls} ({outcome.solve_s:.0f} s)"
            )

        before = {
            number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            Scheduler(spec, model, instances, directory, tell).run(planned)
        except Stopped:
            console.print(f"Stopped; kvci run with --run-id {manifest.run_id} goes on.")
        finally:
            cgroup.sweep()
            for number, handler in before.items():
                signal.signal(number, handler)
        arms, count = [arm.id for arm in spec.arms], len(names) * len(spec.seeds)
        summary = summarize(manifest.run_id, arms, count, directory.outcomes())
        summary.write(directory.path / "summary.json")
        console.print(table(summary))
        return directory.path, summary
