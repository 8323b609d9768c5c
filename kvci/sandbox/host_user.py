"""The user of the host that a sandbox's commands run as. It is never root."""

import ctypes
import os
import secrets
import stat
from collections.abc import Sequence
from pathlib import Path

from kvci.children import LIBC

FIRST_ID, IDS = 1_900_000_000, 100_000_000
"""The range from which root takes a user id for each sandbox. Systems give out no such ids."""
CLONE_NEWNS = 0x20000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000


class HostUser:
    """The user of one sandbox: kvci's own user, or a new user id if kvci runs as root.

    Two sandboxes of root share no user id. So neither limits nor keys per user are shared.
    """

    def __init__(self) -> None:
        self.is_new = os.geteuid() == 0
        self.id = FIRST_ID + secrets.randbelow(IDS)

    def give(self, path: Path) -> None:
        """Make this user the owner of a file, or of a folder and everything in it."""
        if not self.is_new:
            return
        os.lchown(path, self.id, self.id)
        for root, folders, files in os.walk(path):
            for name in (*folders, *files):
                os.lchown(os.path.join(root, name), self.id, self.id)

    def become(self, sources: Sequence[Path]) -> None:
        """Become this user. Call it in the child process, before exec.

        A new user can reach the paths in `sources`, also if they are in folders that only root may
        enter: the child gets mounts of its own, in which such a folder has nothing else. Raises
        OSError.
        """
        if not self.is_new:
            return
        _check(LIBC.unshare(CLONE_NEWNS))
        _mount("none", Path("/"), MS_REC | MS_PRIVATE)
        closed = {source: _first_closed(source) for source in sources}
        opened = {source: os.open(source, os.O_PATH) for source in sources if closed[source]}
        for folder in {folder for folder in closed.values() if folder}:
            _mount("tmpfs", folder, 0, "tmpfs")
        for source in sorted(opened):
            if stat.S_ISDIR(os.fstat(opened[source]).st_mode):
                source.mkdir(parents=True, exist_ok=True)
            else:
                source.parent.mkdir(parents=True, exist_ok=True)
                source.touch()
            _mount(f"/proc/self/fd/{opened[source]}", source, MS_BIND)
        os.setgroups([])
        os.setresgid(self.id, self.id, self.id)
        os.setresuid(self.id, self.id, self.id)


def _first_closed(path: Path) -> Path | None:
    """Return the first folder above a path that other users may not enter."""
    above = [*reversed(path.parents)]
    return next((folder for folder in above if not folder.stat().st_mode & stat.S_IXOTH), None)


def _mount(source: str, target: Path, flags: int, kind: str = "none") -> None:
    words = (source.encode(), bytes(target), kind.encode())
    _check(LIBC.mount(*words, ctypes.c_ulong(flags), b"mode=0755" if kind == "tmpfs" else None))


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
