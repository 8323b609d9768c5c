"""Child processes that end with kvci, even if kvci is killed."""

import ctypes
import multiprocessing
import os
import resource
import signal
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import psutil

from kvci.text import guard_streams

PR_SET_PDEATHSIG = 1
TEMPORARY_MAX_CHARS = 64
"""In a temporary folder with a longer path, a socket's path may be above 107 bytes (unix(7))."""
LIBC = ctypes.CDLL(None, use_errno=True)
ENDING = threading.Event()
"""Set when kvci is being stopped. After that, kvci starts nothing and retries nothing."""


def die_with_parent() -> Callable[[], None]:
    """Return a function that a child process calls before exec.

    After that call, the kernel kills the child when kvci dies. If kvci died before the call, the
    function ends the child itself.
    """
    parent = os.getpid()

    def bind() -> None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return bind


def worker(preload: str = "") -> ProcessPoolExecutor:
    """Return a pool of one worker process. It ends with this process and ignores Ctrl-C.

    What it prints on standard output is lost. `preload` is a module whose import takes long: it is
    imported once, in a process from which all such workers are forked.

    The worker holds both ends of its queue open, so it would wait for work forever after kvci is
    killed. A thread of the worker ends it. `die_with_parent` does not help: the kernel would
    kill the worker when the thread that started it ends.
    """
    # The process that forks has a socket, whose path must not be longer than the kernel allows.
    forks = preload and len(tempfile.gettempdir()) <= TEMPORARY_MAX_CHARS
    context = multiprocessing.get_context("forkserver" if forks else "spawn")
    if forks:
        multiprocessing.set_forkserver_preload([preload])
    environment = dict(os.environ)  # the process that forks has that of its start
    return ProcessPoolExecutor(1, mp_context=context, initializer=_start, initargs=(environment,))


def in_child(work: Callable[[], Any], seconds: float, memory: int | None = None) -> Any:
    """Return the result of `work`, which runs in a copy of this process.

    A limit within this process is not enough for input from outside: a search with a regular
    expression may need hours, and no signal ends it. With `memory`, the child may use so many bytes
    more than this process has mapped; above that, `work` gets a MemoryError. Raises TimeoutError
    after some seconds, and EOFError if the child ends without a result.
    """
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    ends_with_kvci = die_with_parent()

    def send() -> None:
        ends_with_kvci()
        if memory is not None:
            _limit_memory(memory)
        writer.send(work())

    child = context.Process(target=send)
    child.start()
    writer.close()
    try:
        if not reader.poll(seconds):
            raise TimeoutError
        return reader.recv()
    finally:
        reader.close()
        child.kill()
        child.join()


def _limit_memory(more: int) -> None:
    wanted = psutil.Process().memory_info().vms + more
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))


def _start(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    guard_streams()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A library may print here. If the reader of that is gone, the work would fail.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)
