"""Limits one sandbox's memory, processes and CPUs, with cgroup v2 or v1 if kvci may write it."""

import contextlib
import errno
import os
import signal
import time
import uuid
from pathlib import Path

import psutil

from kvci.sandbox.interface import Caps

ROOT = Path("/sys/fs/cgroup")
PERIOD_US = 100_000
"""The time over which the kernel limits CPU time."""
CONTROLLERS = ("memory", "pids", "cpu")
OWN_GROUP = "kvci"
"""kvci moves itself and its neighbours to this group, if their group can then have sandboxes."""
MOVES = 100
"""How often kvci tries this, because a process may start another one in the meantime."""
SWAP = ("memory.swap.max", "memory.memsw.limit_in_bytes")
"""Limits that kernels without swap, or without accounting of swap, do not have."""
INNER = "inner"
"""The subgroup of a sandbox's v2 group that has the processes. While it exists, systemd cannot take
controllers away from the groups above, as it does when the last unit that needs them ends."""


class Cgroup:
    """The cgroup of one sandbox: one folder in v2, three in v1. The manifest contains `kind`."""

    def __init__(self, kind: str, folders: list[Path]) -> None:
        self.kind, self._folders = kind, folders

    @classmethod
    def create(cls, caps: Caps) -> "Cgroup | None":
        """Return a new group; None if this user may not make a group with all limits."""
        name = f"kvci-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        memory, quota = str(caps.memory_mib << 20), int(caps.cpus * PERIOD_US)
        v2 = {
            "cgroup.subtree_control": _all_controllers(),
            "memory.max": memory,
            "memory.swap.max": "0",
            "pids.max": str(caps.processes),
            "cpu.max": f"{quota} {PERIOD_US}",
        }
        v1 = {
            ROOT / "memory" / name: {
                "memory.limit_in_bytes": memory,
                "memory.memsw.limit_in_bytes": memory,
            },
            ROOT / "pids" / name: {"pids.max": str(caps.processes)},
            ROOT / "cpu" / name: {"cpu.cfs_quota_us": str(quota)},
        }
        kind, files = "cgroup v1", v1
        if (ROOT / "cgroup.controllers").exists():
            outer = _parent_v2() / name
            kind, files = "cgroup v2", {outer: v2, outer / INNER: {}}
        group = cls(kind, list(files))
        try:
            for folder, limits in files.items():
                folder.mkdir()
                for file, value in limits.items():
                    if (folder / file).exists():
                        (folder / file).write_text(value)
                    elif file not in SWAP:
                        raise FileNotFoundError(folder / file)
        except OSError:
            group.remove()
            return None
        return group

    def enter(self) -> None:
        """Move this process into the group. Call it in the child, before exec."""
        for folder in self._folders:
            if not (folder / INNER).exists():
                (folder / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self) -> None:
        for folder in reversed(self._folders):
            _remove(folder)


def sweep() -> None:
    """Kill the processes in the groups of kvci processes that were killed; remove the groups.

    Such processes exist if kvci dies while bwrap sets up a sandbox: then bwrap's --die-with-parent
    has no effect.
    """
    for parent in (_parent_v2(), *(ROOT / name for name in ("memory", "pids", "cpu"))):
        for folder in parent.glob("kvci-*-*"):
            pid = folder.name.split("-")[1]
            if pid.isdecimal() and not _alive(int(pid)):
                for group in (folder / INNER, folder):
                    with contextlib.suppress(OSError):
                        for process in (group / "cgroup.procs").read_text().split():
                            os.kill(int(process), signal.SIGKILL)
                    _remove(group)


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


def _parent_v2() -> Path:
    """Return the v2 group in which kvci makes the groups of sandboxes.

    A v2 group that limits its subgroups has no processes of its own. So in a group that is
    delegated to this user (systemd: Delegate=yes), its processes move to a subgroup first.
    """
    own = _own_v2()
    for folder in (own, own.parent, ROOT):
        if folder.is_relative_to(ROOT) and _limits_subgroups(folder):
            return folder
    if _limit_subgroups(ROOT):
        return ROOT
    if _is_delegated(own):
        with contextlib.suppress(OSError):
            (own / OWN_GROUP).mkdir(exist_ok=True)
            for _ in range(MOVES):
                for pid in (own / "cgroup.procs").read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        (own / OWN_GROUP / "cgroup.procs").write_text(pid)
                if _limit_subgroups(own):
                    break
    return own


def _limit_subgroups(folder: Path) -> bool:
    """Let a group limit its subgroups; False if this user may not, or if it has processes."""
    try:
        with (folder / "cgroup.subtree_control").open("r+") as file:  # never make this file
            file.write(_all_controllers())
    except OSError:
        return False
    return True


def _all_controllers() -> str:
    """Return the text for cgroup.subtree_control that gives all controllers to the subgroups."""
    return " ".join(f"+{name}" for name in CONTROLLERS)


def _limits_subgroups(folder: Path) -> bool:
    """True if this user may make subgroups of a group and limit them."""
    return _has_controllers(folder / "cgroup.subtree_control") and os.access(folder, os.W_OK)


def _is_delegated(folder: Path) -> bool:
    """True if this user may make subgroups, and the group has all controllers to give them."""
    files = (folder, folder / "cgroup.procs", folder / "cgroup.subtree_control")
    writable = all(os.access(file, os.W_OK) for file in files)
    return writable and _has_controllers(folder / "cgroup.controllers")


def _has_controllers(file: Path) -> bool:
    try:
        return set(CONTROLLERS) <= set(file.read_text().split())
    except OSError:
        return False


def _own_v2() -> Path:
    """Return the folder of this process's v2 group."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                return ROOT / line[3:].lstrip("/")
    return ROOT
