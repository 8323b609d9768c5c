"""Grade patches on all cores, in child processes, while conversations continue."""

import itertools
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from kvci import children
from kvci.children import worker
from kvci.files import sha256_of
from kvci.run.attempt import grade_with_retries, time_limit_s
from kvci.run.preflight import preflight
from kvci.run.sandboxes import Sandboxes
from kvci.rundir.documents import ATTEMPTS, UNGRADED, Graded
from kvci.sandbox.clock import measures_load
from kvci.tasks.instance import Instance
from kvci.taxonomy import ATTEMPTS_MAX, Verdict
from kvci.threads import background

SWEBENCH = "kvci.grade.patch"
"""The module that imports swebench, which takes seconds."""
FIRST, NEXT, LAST = range(3)
"""The order of work: gold patches, because conversations wait for them; patches of trials; no more
work."""


@dataclass(eq=False)
class _Task:
    """One grading. The function `then` is called with the grading before `result` is set."""

    work: Callable[[], Graded]
    folder: Path
    """The folder of the grading's logs."""
    then: Callable[[Graded], None] = lambda graded: None
    result: Future[Graded] = field(default_factory=Future)

    def end(self, get: Callable[[], Graded]) -> None:
        """Set the result to what `get` returns or raises."""
        if not self.result.set_running_or_notify_cancel():
            return
        try:
            graded = get()
            self.then(graded)
        except BaseException as error:  # otherwise the thread ends, and the run waits forever
            self.result.set_exception(error)
        else:
            self.result.set_result(graded)


def default_workers(memory_mib: int) -> int:
    """Return how many patches this machine grades at once, in sandboxes of this size.

    There is one for each core, and half of the free memory is left to conversations. On a machine
    that does not measure its load there is one, because the tests' time could not be judged.
    """
    if not measures_load():
        return 1
    in_memory: int = (psutil.virtual_memory().available >> 20) // memory_mib // 2
    return max(1, min(len(os.sched_getaffinity(0)), in_memory))


class Grader:
    """Worker processes that grade. `submit` and `preflight` return futures at once.

    Each worker grades one patch at a time. If a worker ends, for example because there is no free
    memory, a new worker replaces it and repeats its grading; the other workers go on. Equal patches
    of an instance are graded once.
    """

    def __init__(self, sandboxes: Sandboxes, test_s: float, workers: int | None = None) -> None:
        self._sandboxes, self._test_s = sandboxes, test_s
        self._waiting: queue.PriorityQueue[tuple[int, int, _Task | None]] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._first_of: dict[tuple[str, str, float], _Task] = {}
        """(instance, digest of the patch, limit of its tests) -> the first task with these."""
        self._closed = threading.Event()
        self._pace = _Pace()
        count = workers or default_workers(sandboxes.caps.memory_mib)
        self._threads = [background(self._work) for _ in range(count)]

    @property
    def workers(self) -> int:
        """How many patches are graded at once."""
        return len(self._threads)

    def submit(
        self,
        instance: Instance,
        patch: bytes,
        folder: Path,
        then: Callable[[Graded], None],
        gold: Graded | None,
    ) -> Future[Graded]:
        """Grade one patch. `gold` is the gold patch's grading, or None if it did not resolve."""
        limit_s = time_limit_s(self._test_s, gold)
        work = partial(
            grade_with_retries, self._sandboxes, instance, patch, folder, limit_s, bool(gold)
        )
        task = _Task(work, folder, then)
        key = (instance.row.instance_id, sha256_of(patch), limit_s)
        if (first := self._first_of.setdefault(key, task)) is task:
            return self._send(NEXT, task)
        first.result.add_done_callback(partial(self._copy, first, task))
        return task.result

    def preflight(self, instance: Instance, folder: Path) -> Future[Graded]:
        """Grade the gold patch and the base commit, before the patches of trials."""
        work = partial(preflight, self._sandboxes, instance, folder, self._test_s)
        return self._send(FIRST, _Task(work, folder))

    def backlog_s(self) -> float:
        """Return an estimate of the seconds that the waiting patches of trials still need."""
        return self._pace.mean_s * self._pace.waiting / self.workers

    def close(self, wait: bool) -> None:
        """End the workers: after all gradings if `wait` is true, otherwise as soon as possible."""
        if not wait:
            self._closed.set()
        for _ in self._threads:
            self._waiting.put((LAST, next(self._numbers), None))
        if wait:
            for one in self._threads:
                one.result()

    def _send(self, order: int, task: _Task) -> Future[Graded]:
        if order == NEXT:
            self._pace.start()
            task.result.add_done_callback(lambda _: self._pace.end())
        self._waiting.put((order, next(self._numbers), task))
        return task.result

    def _copy(self, first: _Task, task: _Task, done: Future[Graded]) -> None:
        """Give a task the grading and the logs of the first task with the same patch."""
        graded = None if done.cancelled() or done.exception() else done.result()
        if graded is None or graded.verdict in UNGRADED or not first.folder.exists():
            self._send(NEXT, task)
            return

        def copied() -> Graded:
            accounts = shutil.ignore_patterns(ATTEMPTS)  # they belong to the first trial
            shutil.copytree(first.folder, task.folder, ignore=accounts, dirs_exist_ok=True)
            return graded

        task.end(copied)

    def _work(self) -> None:
        """Grade one patch after another, until there is no more work."""
        process = _Process()
        while task := self._waiting.get()[2]:
            task.end(partial(self._grade, task, process))
        process.end(wait=not self._closed.is_set())

    def _grade(self, task: _Task, process: "_Process") -> Graded:
        for _ in range(ATTEMPTS_MAX):
            if self._closed.is_set() or children.ENDING.is_set():
                raise CancelledError
            started = time.monotonic()
            graded = process.run(task.work)
            if graded:
                self._pace.add(time.monotonic() - started)
                return graded
        why = f"the grading process ended {ATTEMPTS_MAX} times"
        return Graded(verdict=Verdict.GRADING_FAILED, detail=why)


class _Process:
    """A child process that grades. If it ends, a new one takes its place."""

    def __init__(self) -> None:
        self._pool = worker(SWEBENCH)

    def run(self, work: Callable[[], Graded]) -> Graded | None:
        """Return the result of the work; None if the process ended."""
        try:
            return self._pool.submit(work).result()
        except BrokenExecutor:
            self._pool = worker(SWEBENCH)
            return None

    def end(self, wait: bool) -> None:
        self._pool.shutdown(wait=wait, cancel_futures=True)


class _Pace:
    """How many patches of trials wait to be graded, and how long one grading takes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.waiting = 0
        self._spent_s, self._done = 0.0, 0

    @property
    def mean_s(self) -> float:
        return self._spent_s / max(1, self._done)

    def start(self) -> None:
        with self._lock:
            self.waiting += 1

    def end(self) -> None:
        with self._lock:
            self.waiting -= 1

    def add(self, seconds: float) -> None:
        with self._lock:
            self._spent_s += seconds
            self._done += 1
