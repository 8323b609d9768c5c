"""Which images the kvci processes of this machine need now, so that none lets go another's.

One file for all of them, and in it a byte for each image. The locks are POSIX's (fcntl(2)): they
are a process's, whatever its threads do, a killed one has none, and closing the file would end
them.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from functools import cache

FILE = "/tmp/kvci-images.lock"


def hold(image: str) -> None:
    """Nobody lets this image go until this process releases it or ends."""
    fcntl.lockf(_file(), fcntl.LOCK_SH, 1, _byte(image))


def release(image: str) -> None:
    fcntl.lockf(_file(), fcntl.LOCK_UN, 1, _byte(image))


@contextlib.contextmanager
def unheld(image: str) -> Iterator[bool]:
    """True if no other process holds this image, and none can meanwhile; this one must not."""
    try:
        fcntl.lockf(_file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte(image))
    except (BlockingIOError, PermissionError):
        yield False
        return
    try:
        yield True
    finally:
        release(image)


def is_free(image: str) -> bool:
    """No other process holds it now."""
    with unheld(image) as free:
        return free


@cache
def _file() -> int:
    try:
        return os.open(FILE, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        made = os.open(FILE, os.O_RDWR | os.O_NOFOLLOW | os.O_CREAT, 0o666)
        os.fchmod(made, 0o666)  # whatever the umask is, other users' runs must be able to open it
        return made


def _byte(image: str) -> int:
    return int(hashlib.sha256(image.encode()).hexdigest()[:15], 16)
