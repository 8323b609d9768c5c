"""From a spec to a finished run: the whole way of the data in one function."""

import contextlib
import re
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from kvci.errors import UserError
from kvci.files import sha256_of_file
from kvci.host import gpu, lock_gpus
from kvci.plan import blocks
from kvci.run.progress import Progress
from kvci.run.sandboxes import Sandboxes, choose
from kvci.run.scheduler import Scheduler
from kvci.run.stop import Stopped, stopping
from kvci.run.summary import Summary, infrastructure, summarize, table
from kvci.run.supplies import supplies
from kvci.rundir.directory import RunDirectory, shard_name
from kvci.rundir.documents import RUN_ID, SHARD
from kvci.rundir.parts import Run
from kvci.rundir.settle import settle
from kvci.serve.gguf import check, header, locate
from kvci.serve.server import command, resolve
from kvci.spec import Spec
from kvci.tasks.dataset import dataset_sha256, load_with_revision


def _named(text: str | None, spec: Spec) -> str:
    """The run's id."""
    start = datetime.now(UTC).strftime("%Y%m%d_%H%M%S")
    return text or f"{spec.dataset_name}-{spec.model.name}-{start}"


def folder_of(out: str, name: str, shard: str) -> Path:
    """Shards of one run lie side by side in its folder, each a run directory of its own.

    Raises UserError for a run's id that is no folder's name, or a shard that is none.
    """
    if not re.fullmatch(RUN_ID, name):
        raise UserError(
            f"'{name[:80]}' cannot name a run; use letters, digits and . _ + -, at most 200."
        )
    if not re.fullmatch(SHARD, shard):
        raise UserError(f"'{shard[:80]}' is not a shard; give one as 1/4.")
    whole = Path(out) / name
    return whole if shard == "1/1" else whole / shard_name(shard)


def _hold_division(whole: Path, shard: str) -> None:
    """Raises UserError if the run lies there divided in another way: of two divisions nobody would
    know which trials are its."""
    there = {int(part.path.name.rpartition("-")[2]) for part in Run(whole).shards}
    there |= {1} if RunDirectory(whole).exists else set()
    if other := there - {int(shard.partition("/")[2])}:
        raise UserError(
            f"{whole} is a run of {max(other)} shards; go on with it in as many, or give another "
            "--run-id."
        )


def _revision(spec: Spec, path: Path) -> str:
    """The commit of the hub that a run of this dataset began with; empty if none did."""
    began = RunDirectory(path)
    if not began.exists or began.spec.dataset != spec.dataset:
        return ""
    return began.manifest.dataset_revision


def _start(spec: Spec, path: Path) -> str:
    """When the run began, if not now: as the spec says, or as a shard of it beside says."""
    if spec.start or spec.shard == "1/1":
        return spec.start or ""
    begun = [one.manifest.start for one in Run(path.parent).shards if one.exists]
    return min(begun, default="")


def run(
    spec: Spec, run_id: str | None, console: Console, demo: bool = False
) -> tuple[Path, Summary]:
    """Run what is not done yet, and say what came out. Bad input is a UserError before writing."""
    name = _named(run_id, spec)
    path = folder_of(spec.out, name, spec.shard)
    _hold_division(Path(spec.out) / name, spec.shard)
    loaded, revision = load_with_revision(spec.dataset, _revision(spec, path))
    instances = {instance.row.instance_id: instance for instance in loaded}
    spec = spec.model_copy(update={"engine": resolve(spec.engine)})
    planned = blocks(list(instances), spec)
    command(spec.engine)
    model = locate(spec.model, int(1e9 * spec.disk_reserve_gb))
    check(spec, header(model))
    names = tuple(name for block in planned for name in block.instances)
    kind, sandbox = choose(spec, (instances[name] for name in names))
    digest, model_sha256 = dataset_sha256(instances.values()), sha256_of_file(model)
    if spec.rerun:
        spec.rerun.check(model_sha256, digest)
    spec = spec.model_copy(update={"sandbox": kind})
    alone = lock_gpus() if spec.verified and gpu() else contextlib.nullcontext()
    with alone, RunDirectory(path.resolve()) as directory, stopping():
        sandboxes = Sandboxes.of(spec, kind, directory.scratch, name)
        sandboxes.sweep()
        manifest = directory.open(
            name,
            spec,
            model_sha256,
            digest,
            sandbox,
            demo,
            names,
            revision,
            _start(spec, path),
        )
        trials = spec.trials_of_arms(names)
        progress = Progress(console, trials, spec.slots, directory.outcomes())
        mine = [instances[name] for name in names]
        supply = supplies(spec, mine, directory.path / "images.json", console.print)
        late = False
        try:
            with progress:
                scheduler = Scheduler(
                    spec, model, instances, directory, sandboxes, progress, supply
                )
                scheduler.run(planned)
                late = scheduler.late
        except Stopped:
            console.print(f"Stopped; kvci run with --run-id {manifest.run_id} goes on.")
        finally:
            sandboxes.sweep(own=True)
        outcomes = settle(directory.outcomes())
        summary = summarize(manifest.run_id, trials, outcomes)
        summary = summary.model_copy(update={"late": late})
        summary.write(directory.path / "summary.json")
        console.print(table(summary))
        for line in [*infrastructure(outcomes), *supply.missing()]:
            console.print(line)
        return directory.path, summary
