"""Limits the time of work on input that anyone can send."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Never


class _Over(BaseException):
    """The time is over. No `except Exception` on the way catches this."""


@contextmanager
def time_limit(seconds: float, error: Exception) -> Iterator[None]:
    """A context that raises `error` after some seconds, also during a search with an expression.

    Limits can be nested; each keeps its own time. In other threads than the main thread there is
    no limit, because they get no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    over, started = _Over(), time.monotonic()

    def interrupt(*_: object) -> Never:
        raise over

    outer_s, _ = signal.getitimer(signal.ITIMER_REAL)
    if outer_s and outer_s <= seconds:
        yield  # the outer limit ends first
        return
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _Over as found:
        if found is not over:
            raise
        raise error from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if outer_s:
            left_s = outer_s - (time.monotonic() - started)
            signal.setitimer(signal.ITIMER_REAL, max(left_s, 0.001))
