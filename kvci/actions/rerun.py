"""The rerun's jobs: the run whose trials are repeated, wherever it ran."""

import json
import shutil
import tempfile
from pathlib import Path

from kvci.actions.collect import collect
from kvci.actions.inputs import RerunInputs
from kvci.actions.outputs import output
from kvci.actions.restore import fetch_all
from kvci.errors import UserError
from kvci.publish.github import GitHub
from kvci.run.directory import shards
from kvci.run.main import folder_of
from kvci.run.rerun import rerun_spec
from kvci.spec import Spec


def find(asked: RerunInputs, branch: str, before: Path, github: GitHub) -> None:
    """Put the evidence that the run's jobs left into `before`, for a machine that has it not."""
    output(before=json.dumps(bool(fetch_all(github, asked.run, branch, before))))


def rerun(asked: RerunInputs, out: str, before: Path) -> Spec:
    """What is to be run again, of the run's folder on this machine if it is there with all shards,
    else of its evidence in `before`.

    Raises UserError if there is neither.
    """
    folder = folder_of(out, asked.run, "1/1")
    if _whole(folder) or (shards(folder) and not before.is_dir()):
        return _spec(folder, asked)
    if not before.is_dir():
        raise UserError(
            f"{asked.run} is not below {out}, and no job of this branch left evidence of it that "
            "is still there: rerun it on the machine that ran it."
        )
    with tempfile.TemporaryDirectory() as place:
        collect(before, Path(place, "run"))
        spec = _spec(Path(place, "run"), asked)
    elsewhere = spec.verified and spec.engine != "embedded" and not shutil.which(spec.engine)
    return spec.model_copy(update={"engine": "auto"}) if elsewhere else spec


def _whole(folder: Path) -> bool:
    """The run is here with all its shards; of a matrix a machine may have had one."""
    parts = shards(folder)
    of = {int(part.name.rpartition("-")[2]) for part in parts}
    return of == {len(parts)} if parts else (folder / "spec.json").exists()


def _spec(folder: Path, asked: RerunInputs) -> Spec:
    return rerun_spec(folder, asked.classes, asked.filter, asked.errors)
