"""Stop on a signal. Finished trials are on disk; the other trials run after a resume."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

import psutil

from kvci.children import ENDING
from kvci.streams import WORKING

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""A process gets SIGHUP if its terminal is closed."""


class Stopped(BaseException):
    """One of the signals in STOPS arrived."""


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """A context in which a signal kills all child processes and raises Stopped.

    Later signals are ignored. A signal that the parent ignores stays ignored: `nohup kvci run`
    continues after its terminal is closed.
    """
    heeded = [number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _stop) for number in heeded}
    WORKING.set()
    try:
        yield
    finally:
        WORKING.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _: FrameType | None) -> None:
    """Kill all child processes. Every thread waits for a child process, so every thread ends too.

    Python's resource tracker is not killed: it ends by itself, and prints a warning if it is
    killed.
    """
    for again in STOPS:
        signal.signal(again, signal.SIG_IGN)
    ENDING.set()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "resource_tracker" not in " ".join(child.cmdline()):
                child.kill()
    raise Stopped(number)
