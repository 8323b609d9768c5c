"""A stop from outside: what is finished is on disk, and the rest is for the next time."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

import psutil

from kvci.children import ENDING

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The last one comes when a terminal is closed."""


class Stopped(BaseException):
    """One of STOPS."""


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """A stop ends all children at once and raises Stopped; a second one changes nothing."""
    before = {number: signal.signal(number, _stop) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _: FrameType | None) -> None:
    """Whatever a thread waits for is a child of ours, so its end sets the thread free.

    Python's resource tracker ends by itself, and complains when it is killed.
    """
    for again in STOPS:
        signal.signal(again, signal.SIG_IGN)
    ENDING.set()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "resource_tracker" not in " ".join(child.cmdline()):
                child.kill()
    raise Stopped(number)
