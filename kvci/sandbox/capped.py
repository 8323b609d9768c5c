"""Runs one process with limited wall time and output."""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

from kvci.sandbox.clock import Clock
from kvci.sandbox.interface import Limits, Result

WATCH_S = 0.5
"""The time between two calls of `exceeded`."""


def _nothing() -> None:
    pass


class HeadAndTail:
    """Keeps the start and the end of an output, half of `limit_bytes` each; counts all bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self._half = limit_bytes // 2
        self._head = bytearray()
        self._tail = bytearray()
        self.total_bytes = 0

    def add(self, data: bytes) -> None:
        self.total_bytes += len(data)
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        del self._tail[: max(0, len(self._tail) - self._half)]

    def bytes(self) -> bytes:
        left_out = self.total_bytes - len(self._head) - len(self._tail)
        middle = f"\n[{left_out} bytes left out]\n".encode() if left_out else b""
        return bytes(self._head) + middle + bytes(self._tail)


def run(
    command: Sequence[str],
    limits: Limits,
    *,
    stdin: int = subprocess.DEVNULL,
    before_exec: Callable[[], None] = _nothing,
    pass_fds: Sequence[int] = (),
    on_start: Callable[[], None] = _nothing,
    exceeded: Callable[[], bool] = lambda: False,
    on_end: Callable[[], None] = _nothing,
) -> Result:
    """Run a program; kill its process group if it reaches a limit or `exceeded()` is true.

    `on_start` is called when the program has started, and its time counts from then. `on_end` is
    called when the process group has ended.
    """
    kept = HeadAndTail(limits.kept_bytes)
    process = subprocess.Popen(
        command,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=before_exec,
        pass_fds=pass_fds,
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
    )
    ended = timed_out = False
    try:
        on_start()
        clock = Clock(limits)
        while not ended and not timed_out:
            deadline = time.monotonic() + min(WATCH_S, clock.left_s())
            ended = _drain(process, kept, deadline, limits.output_mib << 20)
            timed_out = not ended and clock.left_s() <= 0
            if not ended and exceeded():
                break
        wall_s = clock.wall_s
    finally:
        if timed_out or kept.total_bytes > limits.output_mib << 20 or process.poll() is None:
            _kill(process)
        code = process.wait()
        assert process.stdout
        process.stdout.close()
        on_end()
    return Result(
        kept.bytes(), code if code >= 0 else 128 - code, timed_out, kept.total_bytes, wall_s
    )


def _drain(
    process: subprocess.Popen[bytes], kept: HeadAndTail, deadline: float, limit_bytes: int
) -> bool:
    """Read the output until the process ends or writes too much; False at the deadline.

    After False, call this function again, even if the output has ended: the process still runs.
    """
    assert process.stdout
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while kept.total_bytes <= limit_bytes:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            if selector.select(left_s):
                data = os.read(process.stdout.fileno(), 1 << 16)
                if not data:
                    break
                kept.add(data)
    if kept.total_bytes <= limit_bytes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
    return True


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
