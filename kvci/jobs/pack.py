"""The last steps of the run job: pack the shard's evidence, even if the run failed."""

import os
import tempfile
from pathlib import Path

from kvci.jobs.outputs import output, summary
from kvci.jobs.restore import artifact_name
from kvci.plan import INTERIM
from kvci.record.bundle import write
from kvci.report.plot import bars
from kvci.report.tables import table
from kvci.run.experiment import folder_of
from kvci.run.summary import summarize
from kvci.rundir.directory import RunDirectory
from kvci.rundir.settle import settle
from kvci.taxonomy import titled

HEADER = ("Arm", "Trials", "Resolved", "Infrastructure", "How they ended")


def pack_shard(out: str, run_id: str, shard: str) -> tuple[Path, str] | None:
    """Pack a shard's evidence, and write the job's outputs and summary.

    Return the run's folder and the name of the shard's folder in it, which is empty for a run
    without shards. Return None if the run has not started.

    The outputs are the archive's path and the artifact's name. If the run has not started, kvci
    writes no output. The summary has counts but no claims, because claims need all shards. Raises
    UserError if `run_id` or `shard` is not valid.
    """
    whole, folder = folder_of(out, run_id, "1/1"), folder_of(out, run_id, shard)
    if not RunDirectory(folder).exists:
        print(f"{folder} contains no run: it has not started")
        return None
    name = artifact_name(run_id, shard)
    archive = Path(os.environ.get("RUNNER_TEMP") or tempfile.mkdtemp(), f"{name}.tar.gz")
    part = "" if folder == whole else folder.name
    print(f"{archive}, sha256 {write(whole, archive, part)}")
    output(archive=str(archive), artifact=name)
    summary(summary_text(folder))
    return whole, part


def summary_text(folder: Path) -> str:
    """Return the summary of one shard: its progress, and the counts of each arm."""
    directory = RunDirectory(folder)
    manifest, spec, outcomes = directory.manifest, directory.spec, settle(directory.outcomes())
    found = summarize(manifest.run_id, spec.trials_of_arms(manifest.planned), outcomes)
    rows = [
        (arm.arm, f"{arm.done}/{arm.planned}", str(arm.resolved), str(arm.infrastructure),
         ", ".join(f"{number} {titled(cls)}" for cls, number in arm.classes.items()))
        for arm in found.arms
    ]  # fmt: skip
    done, planned = (sum(getattr(arm, name) for arm in found.arms) for name in ("done", "planned"))
    head = f"**{done} of {planned} trials are done**" + ("" if found.complete else f" ({INTERIM})")
    shares = [arm.done / max(1, arm.planned) for arm in found.arms]
    plot = bars("Trials done, %", [arm.arm for arm in found.arms], shares)
    return "\n".join([head, "", *table(HEADER, rows), "", plot])
