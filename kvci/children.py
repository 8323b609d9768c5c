"""Child processes that cannot outlive kvci, however it ends."""

import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)
ENDING = threading.Event()
"""kvci is being stopped: what ends now is not started again."""


def die_with_parent() -> Callable[[], None]:
    """What a child calls before exec, so that the kernel kills it when this process dies.

    The signal comes only for deaths after the call: a parent that is gone by then is asked for.
    """
    parent = os.getpid()

    def bind() -> None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return bind


def worker() -> ProcessPoolExecutor:
    """One worker process that ends when this one does; Ctrl-C is for this one alone.

    A pool's worker holds both ends of its own queue, so that it would wait for ever for a killed
    kvci to send it work. The kernel's signal is of no use here: it comes when the thread ends that
    made the worker.
    """
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=_begin)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)
