"""Measures the time of a command on a machine that may have too much work."""

from pathlib import Path

from kvci.awake import awake_s
from kvci.sandbox.interface import Limits

PRESSURE = Path("/proc/pressure")
"""Linux's pressure stall information (Documentation/accounting/psi.rst)."""
BUSY_MAX = 4.0
"""A command may take at most so many times its limit, however much work the machine has."""


def measures_load() -> bool:
    """True if this machine says for how long processes waited for a CPU or a disk."""
    try:
        return bool((PRESSURE / "cpu").read_text())
    except OSError:
        return False


class Clock:
    """The time of a command with `limits`, which starts now.

    With `limits.under_load`, time in which a process of the machine waits for a CPU or a disk does
    not count: that process may be the command's. So work beside a command never ends it, but the
    command may take longer than its limit, at most BUSY_MAX times.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._start = awake_s()
        self._stalled_s = stalled_s() if limits.under_load else (0.0, 0.0)

    @property
    def wall_s(self) -> float:
        return awake_s() - self._start

    def left_s(self) -> float:
        """Return for how many seconds the command may still run, at least; 0 or less at its end."""
        limit_s, wall_s = self._limits.wall_s, self.wall_s
        if not self._limits.under_load or wall_s < limit_s:
            return limit_s - wall_s
        waited_s = max(
            now_s - start_s for start_s, now_s in zip(self._stalled_s, stalled_s(), strict=True)
        )
        return min(limit_s + waited_s, limit_s * BUSY_MAX) - wall_s


def stalled_s() -> tuple[float, float]:
    """Return for how many seconds since the boot some process waited for a CPU, and for a disk.

    On a machine that does not measure this, both are 0.
    """
    return _total_s("cpu"), _total_s("io")


def _total_s(kind: str) -> float:
    try:
        line = (PRESSURE / kind).read_text().splitlines()[0]
    except (OSError, IndexError):
        return 0.0
    return int(line.rpartition("total=")[2]) / 1e6
