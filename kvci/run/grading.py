"""Grading in a child process of its own, beside generation."""

import multiprocessing
import signal
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from pathlib import Path

from kvci.grade import Graded
from kvci.sandbox import SandboxFailed
from kvci.sandbox.bwrap import Bwrap
from kvci.tasks.calibration import Instance
from kvci.taxonomy import ATTEMPTS_MAX, Verdict


def _quiet() -> None:
    """Ctrl-C is for the parent, which ends this child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _grade(instance: Instance, patch: bytes, folder: Path, scratch: Path, test_s: float) -> Graded:
    """Infrastructure failures of grading are graded again, twice."""
    from kvci.grade.grade import grade  # swebench: seconds, and memory only the child needs

    graded = Graded(verdict=Verdict.GRADING_FAILED)
    for _ in range(ATTEMPTS_MAX):
        try:
            graded = grade(
                instance.row, patch, lambda: Bwrap(instance.files, scratch), folder, test_s
            )
        except SandboxFailed as error:
            graded = Graded(verdict=Verdict.GRADING_FAILED, detail=str(error))
        except Exception:
            return Graded(verdict=Verdict.NOT_GRADED, detail=traceback.format_exc())
        if graded.verdict is not Verdict.GRADING_FAILED:
            break
    return graded


def _pass_on(future: Future[Graded], then: Callable[[Graded], None]) -> None:
    """A future that a stop cancelled or broke has nothing to say."""
    if not future.cancelled() and not future.exception():
        then(future.result())


class Grader:
    """One worker process; `submit` returns at once."""

    def __init__(self, scratch: Path, test_s: float) -> None:
        self._scratch, self._test_s = scratch, test_s
        self._pool = ProcessPoolExecutor(
            1, mp_context=multiprocessing.get_context("spawn"), initializer=_quiet
        )

    def submit(
        self, instance: Instance, patch: bytes, folder: Path, then: Callable[[Graded], None]
    ) -> Future[Graded]:
        future = self._pool.submit(_grade, instance, patch, folder, self._scratch, self._test_s)
        future.add_done_callback(partial(_pass_on, then=then))
        return future

    def close(self, wait: bool) -> None:
        self._pool.shutdown(wait=wait, cancel_futures=not wait)
