"""If a grading worker ends, a new worker replaces it."""

import os
import signal
from functools import partial
from pathlib import Path

import psutil

from kvci.run.grader import Grader, _Task
from kvci.run.sandboxes import Sandboxes
from kvci.rundir.documents import Graded
from kvci.sandbox import Caps
from kvci.tasks.calibration import suite
from kvci.taxonomy import ATTEMPTS_MAX, Verdict


def test_worker_end_counts_only_for_started_patch(tmp_path: Path) -> None:
    grader = Grader(Sandboxes("bwrap", tmp_path, Caps()), 20.0)
    started, ended = tmp_path / "started", [Graded(verdict=Verdict.RESOLVED, detail="here")]
    tasks = [_Task(partial(_kill, started)), *(_Task(partial(_give, ended[0])) for _ in range(3))]
    found = [future.result(120) for future in [grader._send(task) for task in tasks]]
    grader.close(wait=True)
    assert found[0].verdict is Verdict.GRADING_FAILED and found[1:] == ended * 3
    assert started.read_text() == "x" * ATTEMPTS_MAX


def _kill(started: Path) -> Graded:
    with started.open("a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _give(graded: Graded) -> Graded:
    return graded


def test_killed_worker_is_replaced_and_patches_graded(tmp_path: Path) -> None:
    instances = suite("calibration:functions=3,count=3")
    grader = Grader(Sandboxes("bwrap", tmp_path, Caps()), 20.0)
    verdicts: list[Verdict] = []
    futures = [
        grader.submit(
            instance,
            instance.row.patch.encode(),
            tmp_path / instance.row.instance_id,
            lambda graded: verdicts.append(graded.verdict),
            None,
        )
        for instance in instances
    ]
    workers = [
        child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())
    ]
    for child in workers:
        child.kill()
    assert workers
    assert [future.result(120).verdict for future in futures] == [Verdict.RESOLVED] * 3
    grader.close(wait=True)
    assert verdicts == [Verdict.RESOLVED] * 3
