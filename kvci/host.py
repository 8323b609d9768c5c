"""This machine and this process, told apart from others without naming them."""

import contextlib
import fcntl
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from kvci.errors import UserError
from kvci.files import sha256_of

GPU_LOCK = Path("/tmp/kvci-gpu.lock")


def host() -> str:
    """Twelve hexadecimal digits that are the same on this machine and differ on the next."""
    machine = Path("/etc/machine-id")
    known = machine.read_text() if machine.exists() else ""
    return sha256_of(f"{platform.node()} {known}".encode())[:12]


def cache() -> Path:
    """What this machine has found out once; may be deleted."""
    beside = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("KVCI_CACHE") or Path(beside, "kvci"))


def gpu() -> str:
    """Name and driver version of each GPU as nvidia-smi says them; empty without one."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "; ".join(done.stdout.splitlines()) if done.returncode == 0 else ""


@contextlib.contextmanager
def gpu_to_itself() -> Iterator[None]:
    """Holds this machine's GPUs, whoever the user is. Raises UserError if another run has them."""
    try:
        lock = os.open(GPU_LOCK, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        lock = os.open(GPU_LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_CREAT, 0o644)
        os.fchmod(lock, 0o644)  # whatever the umask is, others must be able to open it
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                "Another kvci run has this machine's GPU, and two would spoil each other's speed "
                "and memory; wait for it."
            ) from None
        yield
    finally:
        os.close(lock)


def process() -> str:
    """This process, among all that this machine ever ran: `host/pid@boot.start.namespace`."""
    pid = os.getpid()
    return f"{host()}/{pid}@{_boot()}.{_start(pid)}.{_namespace()}"


def ended(name: str) -> bool:
    """True if `name` is a process of this machine and lives no more.

    Of a container's processes others do not know it, until the machine is started again.
    """
    match = re.fullmatch(r"(\w+)/(\d+)@(\w+)\.(\d+)\.(\d+)", name)
    if not match or match[1] != host():
        return False
    _, pid, boot, start, namespace = match.groups()
    if boot != _boot():
        return True
    return namespace == _namespace() and _start(int(pid)) != start


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]


def _namespace() -> str:
    """In another one the number of a process means another process (pid_namespaces(7))."""
    return str(os.stat("/proc/self/ns/pid").st_ino)


def _start(pid: int) -> str:
    """In clock ticks since the boot (proc_pid_stat(5), field 22), which no setting of the clock
    moves; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
