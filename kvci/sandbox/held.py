"""Counts the memory that a sandbox holds, where no cgroup counts it."""

import re
from collections.abc import Iterable
from pathlib import Path

MAPS_MAX_BYTES = 1 << 20
"""If a process has a longer list of mappings, its whole address space counts."""
OWN = ("RssAnon", "VmSwap", "VmPTE", "HugetlbPages")
"""The fields of /proc/PID/status for memory that no other process shares, in kB (proc(5))."""
SHARED = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) ...s [0-9a-f]+ (\S+ \d+)\s+/dev/zero \(deleted\)$", re.M
)
"""A mapping of shared memory without a name: its start, its end, and the memory's identity."""


class Held:
    """The memory of one sandbox's processes."""

    def __init__(self) -> None:
        self._shared: dict[str, int] = {}
        """Identity of shared memory -> the largest size that was seen."""

    def bytes(self, pids: Iterable[int]) -> int:
        """Return how much memory these processes hold.

        Shared memory without a name counts once, with its whole size, because a process can give
        its pages back and keep the memory. /dev/shm and work trees do not count: they have limits
        of their own. Memory of the kernel, such as the buffers of sockets, does not count either.
        """
        own, mapped = 0, dict[str, int]()
        for pid in pids:
            fields = _fields(pid)
            own += sum(fields.get(name, 0) for name in OWN) << 10
            try:
                areas = _shared_areas(pid)
            except OSError:
                areas = {f"process {pid}": fields.get("VmSize", 0) << 10}
            for identity, size in areas.items():
                mapped[identity] = max(size, mapped.get(identity, 0))
        # A process may unmap most of the memory and still keep all of it.
        self._shared = {name: max(size, self._shared.get(name, 0)) for name, size in mapped.items()}
        return own + sum(self._shared.values())


def _fields(pid: int) -> dict[str, int]:
    """Return the fields of /proc/PID/status that are in kB; empty if the process ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.splitlines() if line.endswith(" kB"))
    return {name: int(value.split()[0]) for name, _, value in lines}


def _shared_areas(pid: int) -> dict[str, int]:
    """Return the process's shared memory: identity -> bytes.

    Raises OSError if the list of mappings cannot be read or is too long.
    """
    with Path(f"/proc/{pid}/maps").open(errors="replace") as file:
        text = file.read(MAPS_MAX_BYTES)
    if len(text) == MAPS_MAX_BYTES:
        raise OSError(f"process {pid} has too many mappings")
    areas = dict[str, int]()
    for match in SHARED.finditer(text):
        start, end, identity = match.groups()
        areas[identity] = areas.get(identity, 0) + int(end, 16) - int(start, 16)
    return areas
