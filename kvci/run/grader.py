"""Grade patches in a separate child process, while conversations continue."""

import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from kvci import children
from kvci.children import worker
from kvci.run.attempt import grade_with_retries, time_limit_s
from kvci.run.preflight import preflight
from kvci.run.sandboxes import Sandboxes
from kvci.rundir.documents import Graded
from kvci.tasks.instance import Instance
from kvci.taxonomy import ATTEMPTS_MAX, Verdict


@dataclass(eq=False)
class _Task:
    """One grading. The function `then` is called with the grading before `result` is set."""

    work: Callable[[], Graded]
    then: Callable[[Graded], None] = lambda graded: None
    result: Future[Graded] = field(default_factory=Future)
    tries: int = 0

    def end(self, sent: Future[Graded]) -> None:
        if not self.result.set_running_or_notify_cancel():
            return
        try:
            graded = sent.result()
            self.then(graded)
        except BaseException as error:  # otherwise the thread ends, and the run waits forever
            self.result.set_exception(error)
        else:
            self.result.set_result(graded)


class Grader:
    """One worker process that grades. `submit` and `preflight` return futures at once.

    If the worker ends, for example because there is no free memory, a new worker replaces it and
    repeats its gradings.
    """

    def __init__(self, sandboxes: Sandboxes, test_s: float) -> None:
        self._sandboxes, self._test_s = sandboxes, test_s
        self._pool = worker()
        self._lock = threading.Lock()
        self._closed = False
        self._waiting: list[_Task] = []
        """The tasks in the worker's order. A worker that ends was working on the first task."""

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
        return self._send(_Task(work, then))

    def preflight(self, instance: Instance, folder: Path) -> Future[Graded]:
        work = partial(preflight, self._sandboxes, instance, folder, self._test_s)
        return self._send(_Task(work))

    def _send(self, task: "_Task") -> Future[Graded]:
        pool = self._pool
        with self._lock:
            if task not in self._waiting:
                self._waiting.append(task)
        try:
            sent = pool.submit(task.work)
        except BrokenExecutor:
            self._resend(pool, task)
        else:
            sent.add_done_callback(partial(self._done, pool, task))
            task.result.add_done_callback(lambda ended: ended.cancelled() and sent.cancel())
        return task.result

    def _done(self, pool: Executor, task: "_Task", sent: Future[Graded]) -> None:
        if sent.cancelled():
            task.result.cancel()
        elif isinstance(sent.exception(), BrokenExecutor):
            self._resend(pool, task)
        else:
            self._end(task, sent)

    def _end(self, task: "_Task", sent: Future[Graded]) -> None:
        with self._lock:
            self._waiting.remove(task)
        task.end(sent)

    def _resend(self, pool: Executor, task: "_Task") -> None:
        """Send the task to a new worker. If a stop ended the old worker, cancel the task."""
        with self._lock:
            if self._closed or children.ENDING.is_set():
                task.result.cancel()
                return
            if pool is self._pool:
                self._pool = worker()
            task.tries += task is self._waiting[0]
        if task.tries < ATTEMPTS_MAX:
            self._send(task)
        else:
            why = f"the grading process ended {ATTEMPTS_MAX} times"
            failed: Future[Graded] = Future()
            failed.set_result(Graded(verdict=Verdict.GRADING_FAILED, detail=why))
            self._end(task, failed)

    def close(self, wait: bool) -> None:
        """End the worker: after all gradings if `wait` is true, otherwise at once."""
        with self._lock:
            self._closed = not wait
        self._pool.shutdown(wait=wait, cancel_futures=not wait)
