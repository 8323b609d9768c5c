"""If a grading worker ends, a new worker replaces it."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psutil

from kvci.run.grader import FIRST, NEXT, Grader, _Task
from kvci.run.sandboxes import Sandboxes
from kvci.rundir.documents import Graded
from kvci.sandbox import Caps
from kvci.tasks.calibration import suite
from kvci.tasks.instance import Instance
from kvci.taxonomy import ATTEMPTS_MAX, Verdict


def test_worker_end_counts_only_for_its_patch(tmp_path: Path) -> None:
    grader = Grader(Sandboxes("bwrap", tmp_path, Caps()), 20.0, 2)
    started, ended = tmp_path / "started", Graded(verdict=Verdict.RESOLVED, detail="here")
    tasks = [_Task(partial(_kill, started), tmp_path)]
    tasks += [_Task(partial(_give, ended), tmp_path) for _ in range(3)]
    found = [future.result(120) for future in [grader._send(NEXT, task) for task in tasks]]
    grader.close(wait=True)
    assert found[0].verdict is Verdict.GRADING_FAILED and found[1:] == [ended] * 3
    assert started.read_text() == "x" * ATTEMPTS_MAX


def test_gold_patches_are_graded_first(tmp_path: Path) -> None:
    grader, order = Grader(Sandboxes("bwrap", tmp_path, Caps()), 20.0, 1), []
    held = _Task(partial(_wait_for, tmp_path / "go"), tmp_path)
    futures = [grader._send(NEXT, held)]
    for name, kind in (("trial", NEXT), ("gold", FIRST)):
        one = Graded(verdict=Verdict.RESOLVED, detail=name)
        task = _Task(partial(_give, one), tmp_path, lambda graded: order.append(graded.detail))
        futures.append(grader._send(kind, task))
    (tmp_path / "go").touch()
    for future in futures:
        future.result(120)
    grader.close(wait=True)
    assert order == ["gold", "trial"]


def test_equal_patches_are_graded_once(tmp_path: Path) -> None:
    (instance,) = suite("calibration:functions=3,count=1")
    grader = Grader(Sandboxes("bwrap", tmp_path, Caps()), 20.0, 2)
    patches = [instance.row.patch.encode()] * 3 + [b"another", b"another"]
    seen: list[Graded] = []

    def submit(number: int) -> Graded:
        folder = tmp_path / str(number) / "grade"
        return grader.submit(instance, patches[number], folder, seen.append, None).result(120)

    with ThreadPoolExecutor(5) as pool:  # three at once, then one when the grading has ended
        found = [*pool.map(submit, (0, 1, 3, 4)), submit(2)]
    grader.close(wait=True)
    same = [one.eval_s for one in found if one.verdict is Verdict.RESOLVED]
    assert len(same) == 3 and len(set(same)) == 1 and same[0] > 0
    assert [one.verdict for one in found].count(Verdict.APPLY_FAILED) == 2
    assert len(seen) == 5
    logs = {(tmp_path / str(n) / "grade" / "test_output.txt").read_bytes() for n in (0, 1, 2)}
    assert len(logs) == 1


def test_failed_grading_is_not_copied(tmp_path: Path) -> None:
    (instance,) = suite("calibration:functions=3,count=1")
    odd = Instance(instance.row.model_copy(update={"log_parser": "none"}), instance.files)
    grader, ended = Grader(Sandboxes("bwrap", tmp_path, Caps()), 20.0, 1), []
    futures = [
        grader.submit(
            odd,
            instance.row.patch.encode(),
            tmp_path / name / "grade",
            lambda _: ended.append(grader._pace._done),
            None,
        )
        for name in ("a", "b")
    ]
    assert [future.result(120).verdict for future in futures] == [Verdict.NOT_GRADED] * 2
    grader.close(wait=True)
    assert ended == [1, 2]


def test_backlog_counts_waiting_patches(tmp_path: Path) -> None:
    grader = Grader(Sandboxes("bwrap", tmp_path, Caps()), 20.0, 2)
    first = _Task(partial(_wait_for, tmp_path), tmp_path)
    grader._send(NEXT, first).result(120)
    assert grader.backlog_s() == 0
    futures = [
        grader._send(NEXT, _Task(partial(_wait_for, tmp_path / "go"), tmp_path)) for _ in range(4)
    ]
    assert grader.backlog_s() == 2 * grader._pace.mean_s > 0
    (tmp_path / "go").touch()
    for future in futures:
        future.result(120)
    grader.close(wait=True)


def _wait_for(path: Path) -> Graded:
    while not path.exists():
        time.sleep(0.01)
    return Graded(verdict=Verdict.RESOLVED)


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
    until = time.monotonic() + 30
    workers: list[psutil.Process] = []
    while not workers:
        assert time.monotonic() < until
        found = psutil.Process().children(recursive=True)
        workers = [child for child in found if child.ppid() != os.getpid()]
    for child in workers:
        child.kill()
    assert [future.result(120).verdict for future in futures] == [Verdict.RESOLVED] * 3
    grader.close(wait=True)
    assert verdicts == [Verdict.RESOLVED] * 3
