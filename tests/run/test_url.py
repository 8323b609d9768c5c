"""With a URL as engine, trials run, but they are unverified."""

from pathlib import Path

import pytest

from kvci.console import Terminal
from kvci.errors import UserError
from kvci.plan import blocks
from kvci.record.from_run import build
from kvci.run.progress import Progress
from kvci.run.sandboxes import Sandboxes
from kvci.run.scheduler import Scheduler
from kvci.rundir.directory import RunDirectory
from kvci.sandbox import Caps
from kvci.serve.replay import Replay, Script
from kvci.serve.server import free_port
from kvci.spec import Spec
from kvci.tasks.calibration import suite
from kvci.tasks.script import behave
from kvci.taxonomy import Class
from tests.answers import listening


def test_trials_against_url_are_unverified_without_row(tmp_path: Path) -> None:
    (instance,) = suite("calibration:functions=3,count=1")
    name = instance.row.instance_id
    server = Replay(Script(answers={name: behave(instance, "gold")}), port := free_port())
    spec = Spec.model_validate(
        {
            "model": {"name": "none", "path": "none"},
            "arms": ["f16/f16"],
            "dataset": "calibration",
            "engine": f"http://127.0.0.1:{port}/v1",
        }
    )
    with listening(server), RunDirectory(tmp_path / "run") as directory:
        directory.open("run", spec, "1" * 64, "2" * 64, "bwrap", False, (name,))
        sandboxes = Sandboxes("bwrap", directory.scratch, Caps())
        progress = Progress(Terminal(quiet=True), {"f16-f16": 1}, 1)
        scheduler = Scheduler(spec, Path("none"), {name: instance}, directory, sandboxes, progress)
        scheduler.run(blocks([name], spec))
        (outcome,) = directory.outcomes()
    assert (outcome.cls, outcome.verified) == (Class.OK, False)
    with pytest.raises(UserError, match="never become a row"):
        build(tmp_path / "run")
