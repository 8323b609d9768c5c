"""Limits one sandbox's memory and processes, with cgroup v2 or v1 if kvci may write it."""

import contextlib
import errno
import os
import signal
import time
import uuid
from pathlib import Path

import psutil

ROOT = Path("/sys/fs/cgroup")


class Cgroup:
    """The cgroup of one sandbox: one folder in v2, two in v1. The manifest contains `kind`."""

    def __init__(self, kind: str, folders: list[Path]) -> None:
        self.kind, self._folders = kind, folders

    @classmethod
    def create(cls, memory_mib: int, processes: int) -> "Cgroup | None":
        """Return a new group; None if this user may not make a group with both limits."""
        name = f"kvci-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        memory = str(memory_mib << 20)
        for kind, files in (
            ("cgroup v2", {_own_v2() / name: {"memory.max": memory, "pids.max": str(processes)}}),
            (
                "cgroup v1",
                {
                    ROOT / "memory" / name: {"memory.limit_in_bytes": memory},
                    ROOT / "pids" / name: {"pids.max": str(processes)},
                },
            ),
        ):
            group = cls(kind, list(files))
            try:
                for folder, limits in files.items():
                    folder.mkdir()
                    for file, value in limits.items():
                        if not (folder / file).exists():
                            raise FileNotFoundError(folder / file)
                        (folder / file).write_text(value)
                return group
            except OSError:
                group.remove()
        return None

    def enter(self) -> None:
        """Move this process into the group. Call it in the child, before exec."""
        for folder in self._folders:
            (folder / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self) -> None:
        for folder in self._folders:
            _remove(folder)


def sweep() -> None:
    """Kill the processes in the groups of kvci processes that were killed; remove the groups.

    Such processes exist if kvci dies while bwrap sets up a sandbox: then bwrap's --die-with-parent
    has no effect.
    """
    for parent in (_own_v2(), ROOT / "memory", ROOT / "pids"):
        for folder in parent.glob("kvci-*-*"):
            pid = folder.name.split("-")[1]
            if pid.isdecimal() and not _alive(int(pid)):
                with contextlib.suppress(OSError):
                    for process in (folder / "cgroup.procs").read_text().split():
                        os.kill(int(process), signal.SIGKILL)
                _remove(folder)


def _alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _remove(folder: Path) -> None:
    """Remove a group's folder.

    The kernel frees a group a moment after its last process ended, so try for two seconds.
    """
    for _ in range(100):
        try:
            folder.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY:
                return  # the folder does not exist: systemd may mount its parent read-only
            time.sleep(0.02)
        else:
            return


def _own_v2() -> Path:
    """Return the folder of this process's v2 group."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                return ROOT / line[3:].lstrip("/")
    return ROOT
