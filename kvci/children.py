"""Child processes that end with kvci, even if kvci is killed."""

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
"""Set when kvci is being stopped: nothing is started or tried again after that."""


def die_with_parent() -> Callable[[], None]:
    """A function for the child to call before exec: the kernel then kills it when kvci dies.

    The kernel reports only a death after that call, so the child first checks that kvci still runs.
    """
    parent = os.getpid()

    def bind() -> None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return bind


def worker() -> ProcessPoolExecutor:
    """A pool of one worker process that ends with this process and ignores Ctrl-C.

    The worker has both ends of its queue open, so without this it would wait for work for ever
    after kvci is killed. `die_with_parent` does not help: its signal comes when the thread that
    made the worker ends.
    """
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=_start)


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)
