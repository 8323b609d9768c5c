"""Child processes that cannot outlive kvci, however it ends."""

import ctypes
import os
import signal
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


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
