"""Files of JSON lines in which each line has the digest of the line before it."""

import json
from collections.abc import Callable, Sequence
from typing import IO, Any

from kvci.files import sha256_of

BEFORE = "before"
"""The field of a line that has the digest of the line before it; empty in the first line."""


class Chain:
    """Appends lines to a file. `digest` is the digest of the last line."""

    def __init__(self, file: IO[str]) -> None:
        self._file, self.digest = file, ""

    def append(self, entry: dict[str, Any]) -> None:
        line = line_of(entry, self.digest)
        self._file.write(line + "\n")
        self._file.flush()
        self.digest = digest_of(line)


def line_of(entry: dict[str, Any], before: str = "") -> str:
    """Return the line of an entry. `before` is the digest of the line before it."""
    return json.dumps(entry | {BEFORE: before})


def digest_of(line: str) -> str:
    return sha256_of(line.encode())


def first_break(lines: Sequence[str], redacted: Callable[[str], bool]) -> int | None:
    """Return the number of the first line that does not follow the line before it, else None.

    The first line is line 1. A line after a redacted line follows it, because the digest is that
    of the original line.
    """
    digest = ""
    for number, line in enumerate(lines, 1):
        follows = json.loads(line).get(BEFORE) == digest
        if not follows and not (number > 1 and redacted(lines[number - 2])):
            return number
        digest = digest_of(line)
    return None
