"""Standard output and standard error that never end the work, even if their reader goes away."""

import errno
import io
import os
import select
import stat
import sys
import threading
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

QUIET_S = 2.0
"""A command that ends so soon after its reader says nothing, like any Unix tool before `head`."""
WORKING = threading.Event()
"""Set during work that must not wait for a reader that does not read, as a stopped terminal."""
PATIENCE_S = 30.0
"""For so long such work waits. After that, output is dropped until the reader reads again."""


class _Kept(io.FileIO):
    """A file descriptor on which a write never fails. After the first failure, it writes nothing.

    This is done below all buffers, so it holds for every way to print and in every thread.
    """

    def __init__(self, number: int) -> None:
        super().__init__(_without_waiting(number), "w", closefd=False)
        self._terminal, self._error, self._said = self.isatty(), "", False
        self._patience_s = PATIENCE_S
        self.incomplete = False
        """True if something is missing in a file. A closed pipe or terminal needs no output."""

    def write(self, data: "ReadableBuffer", /) -> int:
        size = memoryview(data).nbytes
        while not self._error:
            try:
                if (written := super().write(data)) is not None:
                    self._patience_s = PATIENCE_S
                    return written
                if not self._is_read():
                    return size
            except OSError as error:
                left = self._terminal or error.errno == errno.EPIPE
                self.incomplete = not left
                self._error = "its reader is gone" if left else str(error.strerror)
                later = threading.Timer(QUIET_S, self.say)
                later.daemon = True
                later.start()
        return size

    def _is_read(self) -> bool:
        """Wait until the reader has read something. False if that takes too long."""
        hurried = WORKING.is_set() or not self._patience_s
        if select.select([], [self], [], self._patience_s if hurried else None)[1]:
            return True
        self._patience_s = 0.0
        return False

    def say(self) -> None:
        """Say once on standard error that the output is lost."""
        if not self._said:
            self._said = True
            sentence = (
                f"kvci: The output cannot be written ({self._error}); the work does not stop."
            )
            print(sentence, file=sys.stderr)


def keep_streams() -> _Kept:
    """Replace standard output and standard error by streams that never fail; return the first."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # it is closed; without this, a file of the run would get its number
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    out, err = _Kept(1), _Kept(2)
    sys.stdout, sys.stderr = _text(out, sys.stdout), _text(err, sys.stderr)
    return out


def _without_waiting(number: int) -> int:
    """Return a descriptor of the same pipe or terminal on which a write does not wait.

    It is opened again, because the mode of `number` belongs to other processes, too. Return
    `number` if that is not possible.
    """
    kind = os.fstat(number).st_mode
    if not (stat.S_ISFIFO(kind) or os.isatty(number)):
        return number
    try:
        return os.open(
            f"/proc/self/fd/{number}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        )
    except OSError:
        return number


def _text(raw: _Kept, like: TextIO | None) -> TextIO:
    encoding, errors = (like.encoding, like.errors) if like else ("utf-8", "replace")
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=True)
