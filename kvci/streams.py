"""Standard output and standard error that never end the work, even if their reader goes away."""

import errno
import io
import os
import select
import sys
import threading
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

QUIET_S = 2.0
"""A command that ends so soon after its reader says nothing, like any Unix tool before `head`."""


class _Kept(io.FileIO):
    """A file descriptor on which a write never fails. After the first failure, it writes nothing.

    This is done below all buffers, so it holds for every way to print and in every thread.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)
        self._terminal, self._error, self._said = self.isatty(), "", False
        self.incomplete = False
        """True if something is missing in a file. A closed pipe or terminal needs no output."""

    def write(self, data: "ReadableBuffer", /) -> int:
        size = memoryview(data).nbytes
        while not self._error:
            try:
                if (written := super().write(data)) is not None:
                    return written
                select.select([], [self], [])  # another process made the pipe non-blocking
            except OSError as error:
                left = self._terminal or error.errno == errno.EPIPE
                self.incomplete = not left
                self._error = "its reader is gone" if left else str(error.strerror)
                later = threading.Timer(QUIET_S, self.say)
                later.daemon = True
                later.start()
        return size

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


def _text(raw: _Kept, like: TextIO | None) -> TextIO:
    encoding, errors = (like.encoding, like.errors) if like else ("utf-8", "replace")
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=True)
