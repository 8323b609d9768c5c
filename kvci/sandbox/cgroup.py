"""Memory and process limits for one sandbox, by cgroup v2 where delegated or v1 where writable."""

import contextlib
import os
import time
import uuid
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


class Cgroup:
    """One group per controller folder. `kind` is what the manifest says."""

    def __init__(self, kind: str, folders: list[Path]) -> None:
        self.kind, self._folders = kind, folders

    @classmethod
    def create(cls, memory_mib: int, processes: int) -> "Cgroup | None":
        """None where this user may not make one with both controllers."""
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
        """Called in the child, before exec."""
        for folder in self._folders:
            (folder / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self) -> None:
        """The kernel lets go of a group a moment after its last process ended."""
        for folder in self._folders:
            for _ in range(100):
                with contextlib.suppress(FileNotFoundError):
                    try:
                        folder.rmdir()
                    except OSError:
                        time.sleep(0.02)
                        continue
                break


def sweep() -> None:
    """Remove the empty groups that killed kvci processes left behind."""
    for parent in (_own_v2(), ROOT / "memory", ROOT / "pids"):
        for folder in parent.glob("kvci-*-*"):
            pid = folder.name.split("-")[1]
            if pid.isdecimal() and not Path("/proc", pid).exists():
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _own_v2() -> Path:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                return ROOT / line[3:].lstrip("/")
    return ROOT
