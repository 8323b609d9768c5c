"""Turn a specification into a finished run. The function `run` shows the whole data flow."""

import contextlib
import re
from datetime import UTC, datetime
from pathlib import Path

from kvci.console import Terminal
from kvci.errors import UserError
from kvci.files import sha256_of_file
from kvci.host import gpu, lock_gpus
from kvci.plan import blocks
from kvci.run.progress import Progress
from kvci.run.sandboxes import Sandboxes, choose
from kvci.run.scheduler import Scheduler
from kvci.run.stop import Stopped, stopping
from kvci.run.summary import Summary, doubt_lines, infrastructure_lines, summarize, table
from kvci.run.supplies import supplies
from kvci.rundir.directory import RunDirectory, shard_name
from kvci.rundir.documents import RUN_ID, RUN_ID_RULE, SHARD
from kvci.rundir.parts import Run
from kvci.rundir.settle import settle
from kvci.serve.gguf import check, header, locate
from kvci.serve.server import command, resolve
from kvci.spec import Spec
from kvci.tasks.dataset import by_id, dataset_sha256, load_with_revision
from kvci.units import counted


def _default_run_id(spec: Spec) -> str:
    start = datetime.now(UTC).strftime("%Y%m%d_%H%M%S")
    return f"{spec.dataset_name}-{spec.model.name}-{start}"


def folder_of(out: str, run_id: str, shard: str) -> Path:
    """Return the run directory of a shard, or of a whole run if there is only one shard.

    The first is OUT/RUN-ID/shard-I-of-N, and the second is OUT/RUN-ID.

    Raises UserError if the run id or the shard is not valid.
    """
    if not re.fullmatch(RUN_ID, run_id):
        raise UserError(f"'{run_id[:80]}' cannot name a run; {RUN_ID_RULE}.")
    if not re.fullmatch(SHARD, shard):
        raise UserError(f"'{shard[:80]}' is not a shard; write I/N, for example 1/4.")
    run_folder = Path(out) / run_id
    return run_folder if shard == "1/1" else run_folder / shard_name(shard)


def _check_shard_count(run_folder: Path, shard: str) -> None:
    """Raises UserError if the run was started with another number of shards.

    With two numbers of shards, some trials would run twice.
    """
    counts = {int(part.path.name.rpartition("-")[2]) for part in Run(run_folder).shards}
    counts |= {1} if RunDirectory(run_folder).exists else set()
    if other := counts - {int(shard.partition("/")[2])}:
        count = max(other)
        raise UserError(
            f"{run_folder} is a run of {counted(count, 'shard')}; resume it with the "
            "same number of shards, or give another --run-id."
        )


def _dataset_revision(spec: Spec, path: Path) -> str:
    """Return the hub's commit with which this run started; empty if the run or dataset is new."""
    directory = RunDirectory(path)
    if not directory.exists or directory.spec.dataset != spec.dataset:
        return ""
    return directory.manifest.dataset_revision


def _earlier_start(spec: Spec, path: Path) -> str:
    """Return the run's start from the specification or another shard; empty if it starts now."""
    if spec.start or spec.shard == "1/1":
        return spec.start or ""
    starts = [one.manifest.start for one in Run(path.parent).shards if one.exists]
    return min(starts, default="")


def run(
    spec: Spec, run_id: str | None, console: Terminal, demo: bool = False
) -> tuple[Path, Summary]:
    """Run the trials that are not done, and print a summary.

    Return the run directory and the summary. Raises UserError, before anything is written, if the
    input is not valid.
    """
    run_id = run_id or _default_run_id(spec)
    path = folder_of(spec.out, run_id, spec.shard)
    _check_shard_count(Path(spec.out) / run_id, spec.shard)
    loaded, revision = load_with_revision(spec.dataset, _dataset_revision(spec, path))
    instances = by_id(loaded)
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
    gpu_lock = lock_gpus() if spec.verified and gpu() else contextlib.nullcontext()
    with gpu_lock, RunDirectory(path.resolve()) as directory, stopping():
        sandboxes = Sandboxes.of(spec, kind, directory.scratch, run_id)
        sandboxes.sweep()
        manifest = directory.open(
            run_id,
            spec,
            model_sha256,
            digest,
            sandbox,
            demo,
            names,
            revision,
            _earlier_start(spec, path),
        )
        trials = spec.trials_of_arms(names)
        progress = Progress(console, trials, spec.slots, directory.outcomes())
        selected = [instances[name] for name in names]
        supply = supplies(spec, selected, directory.path / "images.json", console.print)
        late = False
        try:
            with progress:
                scheduler = Scheduler(
                    spec, model, instances, directory, sandboxes, progress, supply
                )
                scheduler.run(planned)
                late = scheduler.out_of_time
        except Stopped:
            console.print(
                "Stopped. Finished trials are kept. To resume, repeat the command with "
                f"--run-id {manifest.run_id}."
            )
        finally:
            sandboxes.sweep(own=True)
        outcomes = settle(directory.outcomes())
        summary = summarize(manifest.run_id, trials, outcomes)
        summary = summary.model_copy(update={"late": late})
        summary.write(directory.path / "summary.json")
        console.print(table(summary))
        for line in [*infrastructure_lines(outcomes), *doubt_lines(outcomes), *supply.missing()]:
            console.print(line)
        return directory.path, summary
