"""Locks images, so that no kvci process evicts an image that another kvci process needs.

All processes of this machine share one file, with one byte for each image. The locks are POSIX
record locks (fcntl(2)). Such a lock belongs to a process, not to a thread. The kernel drops it when
the process is killed or closes the file.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from kvci.files import open_lock, sha256_of

FILE = "/tmp/kvci-images.lock"


def lock(image: str) -> None:
    """Keep other processes from evicting this image until `unlock`, or until this process ends."""
    fcntl.lockf(_file(), fcntl.LOCK_SH, 1, _byte(image))


def unlock(image: str) -> None:
    fcntl.lockf(_file(), fcntl.LOCK_UN, 1, _byte(image))


@contextlib.contextmanager
def exclusive(image: str) -> Iterator[bool]:
    """Yield True if no other process has locked this image.

    While the context is open, no other process can lock the image. This process must not have
    locked the image before: that lock would be lost.
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
    """True if no other process has locked this image now."""
    with exclusive(image) as free:
        return free


@cache
def _file() -> int:
    return open_lock(Path(FILE), os.O_RDWR, 0o666)  # the runs of other users must open it, too


def _byte(image: str) -> int:
    return int(sha256_of(image.encode())[:15], 16)
