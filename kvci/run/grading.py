"""Grading in a child process of its own, beside generation."""

import contextlib
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from kvci import __version__, children
from kvci.children import worker
from kvci.errors import UserError
from kvci.files import sha256_of
from kvci.grade import Graded
from kvci.host import cache, host
from kvci.run.sandboxes import Sandboxes
from kvci.sandbox import Sandbox, SandboxFailed
from kvci.tasks.instance import Instance
from kvci.taxonomy import ATTEMPTS_MAX, Verdict

GOLD_TRIES = 2
TRANSIENT = {Verdict.GRADING_FAILED, Verdict.NOT_GRADED, Verdict.TEST_TIMEOUT}
"""Of a gold patch another day may say otherwise: infrastructure or time had a part in it."""


def _once(
    sandboxes: Sandboxes,
    instance: Instance,
    patch: bytes | None,
    folder: Path,
    test_s: float,
    network: bool = False,
) -> Graded:
    from kvci.grade.grade import grade  # swebench: seconds, and memory only the child needs

    def make() -> Sandbox:
        return sandboxes.make(instance, network or sandboxes.grade_network)

    try:
        return grade(instance.row, patch, make, folder, test_s)
    except SandboxFailed as error:
        with contextlib.suppress(UserError):
            sandboxes.wait()
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


def limit_s(test_s: float, gold: Graded | None) -> float:
    """For the tests of a patch: at least twice the gold patch's time, where that is known."""
    return max(test_s, 2 * gold.eval_s) if gold else test_s


def unmarked(graded: Graded) -> bool:
    """The tests ran, but their log lacks a marker."""
    return graded.verdict is Verdict.GRADING_FAILED and graded.applies is True


def _preflight(sandboxes: Sandboxes, instance: Instance, folder: Path, test_s: float) -> Graded:
    """The gold patch, which must resolve in one of two tries, and the base, which must not.

    What an image answers is kept on this machine, and not asked again by this kvci, but for what a
    network may have had a part in.
    """
    known = _known(sandboxes, instance, test_s)
    if known and known.exists():
        return Graded.read(known)
    graded = _asked(sandboxes, instance, folder, test_s)
    lasts = graded.verdict is Verdict.RESOLVED or not sandboxes.grade_network
    if known and lasts and graded.verdict not in TRANSIENT:
        with contextlib.suppress(OSError):  # then it is asked again, another day
            graded.write(known)
    return graded


def _asked(sandboxes: Sandboxes, instance: Instance, folder: Path, test_s: float) -> Graded:
    gold = instance.row.patch.encode()
    for _ in range(GOLD_TRIES):
        graded = _known_of(sandboxes, partial(_once, sandboxes, instance, gold, folder, test_s))
        if graded.verdict is Verdict.RESOLVED or unknown(graded):
            break
    if graded.verdict is Verdict.RESOLVED:
        ask = partial(_once, sandboxes, instance, None, folder / "base", test_s)
        bare = _known_of(sandboxes, ask)
        if unknown(bare):
            return bare
        if bare.verdict is Verdict.RESOLVED:
            why = {"verdict": Verdict.TESTS_FAIL, "detail": "the tests pass without any patch"}
            return graded.model_copy(update=why)
    elif graded.applies and sandboxes.kind == "docker" and not sandboxes.grade_network:
        online = _once(sandboxes, instance, gold, folder / "online", test_s, network=True)
        if online.verdict is Verdict.RESOLVED:
            why = {"detail": "the gold patch resolves with a network alone; see grade_network"}
            return graded.model_copy(update=why)
    return graded


def _known_of(sandboxes: Sandboxes, ask: Callable[[], Graded]) -> Graded:
    """What infrastructure kept from being known is asked again, twice. Raises UserError where no
    sandbox can be made for so long that nothing is the instance's fault."""
    for _ in range(ATTEMPTS_MAX):
        if not unknown(graded := ask()):
            break
        sandboxes.wait()
    return graded


def unknown(graded: Graded) -> bool:
    """Infrastructure or kvci itself failed before a test ran: it says nothing of the patch."""
    failed = graded.verdict is Verdict.GRADING_FAILED and graded.applies is None
    return failed or graded.verdict is Verdict.NOT_GRADED


def _known(sandboxes: Sandboxes, instance: Instance, test_s: float) -> Path | None:
    """Where the answer of this image to this row's tests is kept."""
    try:
        image = sandboxes.identity(instance)
    except Exception:
        return None  # it is not here; asking for the sandbox will say so
    bounds = f"{sandboxes.caps} {sandboxes.grade_network} {test_s}"
    asked = f"{__version__} {host()} {image} {bounds} {instance.row.model_dump_json()}"
    return cache() / "preflight" / f"{sha256_of(asked.encode())}.json" if image else None


@dataclass(eq=False)
class _Task:
    """What is to be graded, and who hears of it before `result` is there."""

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
        except Exception as error:
            self.result.set_exception(error)
        else:
            self.result.set_result(graded)


class Grader:
    """One worker process; `submit` and `preflight` return at once.

    A worker that ends, as when memory runs out, is replaced, and what it had is graded again.
    """

    def __init__(self, sandboxes: Sandboxes, test_s: float) -> None:
        self._sandboxes, self._test_s = sandboxes, test_s
        self._pool = worker()
        self._lock = threading.Lock()
        self._closed = False
        self._waiting: list[_Task] = []
        """In the worker's order: of a worker that ends, the first one was begun."""

    def submit(
        self,
        instance: Instance,
        patch: bytes,
        folder: Path,
        then: Callable[[Graded], None],
        gold: Graded | None,
    ) -> Future[Graded]:
        limit = limit_s(self._test_s, gold)
        task = partial(_grade, self._sandboxes, instance, patch, folder, limit, bool(gold))
        return self._send(_Task(task, then))

    def preflight(self, instance: Instance, folder: Path) -> Future[Graded]:
        task = partial(_preflight, self._sandboxes, instance, folder, self._test_s)
        return self._send(_Task(task))

    def _send(self, task: "_Task") -> Future[Graded]:
        pool = self._pool
        with self._lock:
            if task not in self._waiting:
                self._waiting.append(task)
        try:
            sent = pool.submit(task.work)
        except BrokenExecutor:
            self._again(pool, task)
        else:
            sent.add_done_callback(partial(self._done, pool, task))
            task.result.add_done_callback(lambda ended: ended.cancelled() and sent.cancel())
        return task.result

    def _done(self, pool: Executor, task: "_Task", sent: Future[Graded]) -> None:
        if sent.cancelled():
            task.result.cancel()
        elif isinstance(sent.exception(), BrokenExecutor):
            self._again(pool, task)
        else:
            self._end(task, sent)

    def _end(self, task: "_Task", sent: Future[Graded]) -> None:
        with self._lock:
            self._waiting.remove(task)
        task.end(sent)

    def _again(self, pool: Executor, task: "_Task") -> None:
        """The worker is gone. A stop ends it too, and then nothing is begun anew."""
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
            gone: Future[Graded] = Future()
            gone.set_result(Graded(verdict=Verdict.GRADING_FAILED, detail=why))
            self._end(task, gone)

    def close(self, wait: bool) -> None:
        with self._lock:
            self._closed = not wait
        self._pool.shutdown(wait=wait, cancel_futures=not wait)
