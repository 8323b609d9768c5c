"""After a shard's run, however it ended: what it has so far, for the job's artifact."""

import os
import tempfile
from pathlib import Path

from kvci.actions.outputs import output
from kvci.actions.restore import artifact_name
from kvci.record.evidence import write
from kvci.run.main import folder_of


def evidence(out: str, run_id: str, shard: str) -> None:
    """The outputs name the archive and its artifact; none if the run has not begun.

    Raises UserError for what cannot name a run or a shard.
    """
    whole, folder = folder_of(out, run_id, "1/1"), folder_of(out, run_id, shard)
    if not (folder / "manifest.json").exists():
        print(f"{folder} holds no run: it has not begun")
        return
    name = artifact_name(run_id, shard)
    archive = Path(os.environ.get("RUNNER_TEMP") or tempfile.mkdtemp(), f"{name}.tar.gz")
    part = "" if folder == whole else folder.name
    print(f"{archive}, sha256 {write(whole, archive, part)}")
    output(archive=str(archive), artifact=name)
