"""The grading worker: one that ends is replaced."""

from pathlib import Path

import psutil

from kvci.run.grading import Grader
from kvci.run.sandboxes import Sandboxes
from kvci.sandbox import Caps
from kvci.tasks.calibration import suite
from kvci.taxonomy import Verdict


def test_a_worker_that_ends_is_replaced_and_its_patches_graded(tmp_path: Path) -> None:
    some = suite("calibration:functions=3,count=3")
    grader = Grader(Sandboxes("bwrap", tmp_path, Caps()), 20.0)
    heard: list[Verdict] = []
    futures = [
        grader.submit(
            instance,
            instance.row.patch.encode(),
            tmp_path / instance.row.instance_id,
            lambda graded: heard.append(graded.verdict),
            None,
        )
        for instance in some
    ]
    workers = [
        child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())
    ]
    for child in workers:
        child.kill()
    assert workers
    assert [future.result(120).verdict for future in futures] == [Verdict.RESOLVED] * 3
    grader.close(wait=True)
    assert heard == [Verdict.RESOLVED] * 3
