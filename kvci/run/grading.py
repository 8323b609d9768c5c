"""Grading in a child process of its own, beside generation."""

import traceback
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from kvci.children import worker
from kvci.grade import Graded
from kvci.run.sandboxes import Sandboxes
from kvci.sandbox import SandboxFailed
from kvci.tasks.instance import Instance
from kvci.taxonomy import ATTEMPTS_MAX, Verdict

GOLD_TRIES = 2


def _once(
    sandboxes: Sandboxes, instance: Instance, patch: bytes, folder: Path, test_s: float
) -> Graded:
    from kvci.grade.grade import grade  # swebench: seconds, and memory only the child needs

    try:
        return grade(instance.row, patch, lambda: sandboxes.make(instance), folder, test_s)
    except SandboxFailed as error:
        return Graded(verdict=Verdict.GRADING_FAILED, detail=str(error))
    except Exception:
        return Graded(verdict=Verdict.NOT_GRADED, detail=traceback.format_exc())


def _grade(
    sandboxes: Sandboxes, instance: Instance, patch: bytes, folder: Path, test_s: float, gold: bool
) -> Graded:
    """Infrastructure failures of grading are graded again, twice.

    `gold` says that the gold patch resolved here. Then a patch whose tests never once reach their
    end kills them itself.
    """
    tries = []
    for _ in range(ATTEMPTS_MAX):
        tries.append(_once(sandboxes, instance, patch, folder, test_s))
        if tries[-1].verdict is not Verdict.GRADING_FAILED:
            break
    last = tries[-1]
    if gold and len(tries) == ATTEMPTS_MAX and all(unmarked(graded) for graded in tries):
        why = f"{last.detail}, {ATTEMPTS_MAX} times, while the gold patch's has both"
        return last.model_copy(update={"verdict": Verdict.TESTS_FAIL, "detail": why})
    return last


def unmarked(graded: Graded) -> bool:
    """The tests ran, but their log lacks a marker."""
    return graded.verdict is Verdict.GRADING_FAILED and graded.applies is True


def _preflight(sandboxes: Sandboxes, instance: Instance, folder: Path, test_s: float) -> Graded:
    """The gold patch, which must resolve in one of two tries."""
    for _ in range(GOLD_TRIES):
        graded = _once(sandboxes, instance, instance.row.patch.encode(), folder, test_s)
        if graded.verdict is Verdict.RESOLVED:
            break
    return graded


def _pass_on(future: Future[Graded], then: Callable[[Graded], None]) -> None:
    """A future that a stop cancelled or broke has nothing to say."""
    if not future.cancelled() and not future.exception():
        then(future.result())


class Grader:
    """One worker process; `submit` and `preflight` return at once."""

    def __init__(self, sandboxes: Sandboxes, test_s: float) -> None:
        self._sandboxes, self._test_s = sandboxes, test_s
        self._pool = worker()

    def submit(
        self,
        instance: Instance,
        patch: bytes,
        folder: Path,
        then: Callable[[Graded], None],
        gold: Graded | None,
    ) -> Future[Graded]:
        """The time limit is at least twice the gold patch's time, where that is known."""
        test_s = max(self._test_s, 2 * gold.eval_s) if gold else self._test_s
        future = self._pool.submit(
            _grade, self._sandboxes, instance, patch, folder, test_s, bool(gold)
        )
        future.add_done_callback(partial(_pass_on, then=then))
        return future

    def preflight(self, instance: Instance, folder: Path) -> Future[Graded]:
        return self._pool.submit(_preflight, self._sandboxes, instance, folder, self._test_s)

    def close(self, wait: bool) -> None:
        self._pool.shutdown(wait=wait, cancel_futures=not wait)
