"""Locks on the images that this machine's kvci processes need, so that none evicts another's.

All processes share one file, with one byte for each image. The locks are POSIX record locks
(fcntl(2)): they belong to the process and not to a thread, the kernel drops them when the process
is killed, and closing the file would drop them too.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from functools import cache

FILE = "/tmp/kvci-images.lock"


def lock(image: str) -> None:
    """Keep other processes from evicting this image until `unlock`, or until this process ends."""
    fcntl.lockf(_file(), fcntl.LOCK_SH, 1, _byte(image))


def unlock(image: str) -> None:
    fcntl.lockf(_file(), fcntl.LOCK_UN, 1, _byte(image))


@contextlib.contextmanager
def exclusive(image: str) -> Iterator[bool]:
    """Yield True if no other process has locked this image; none can while the context is open.

    This process must not have locked it: its own lock would be lost.
    """
    try:
        fcntl.lockf(_file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte(image))
    except (BlockingIOError, PermissionError):
        yield False
        return
    try:
        yield True
    finally:
        unlock(image)


def is_free(image: str) -> bool:
    """True if no other process has locked it now."""
    with exclusive(image) as free:
        return free


@cache
def _file() -> int:
    try:
        return os.open(FILE, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        descriptor = os.open(FILE, os.O_RDWR | os.O_NOFOLLOW | os.O_CREAT, 0o666)
        os.fchmod(descriptor, 0o666)  # other users' runs must open it, whatever the umask is
        return descriptor


def _byte(image: str) -> int:
    return int(hashlib.sha256(image.encode()).hexdigest()[:15], 16)
