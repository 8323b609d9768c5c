"""Anonymous ids of this machine and this process; the machine's GPUs and its cache folder."""

import contextlib
import fcntl
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from kvci.errors import UserError
from kvci.files import open_lock, sha256_of

GPU_LOCK = Path("/tmp/kvci-gpu.lock")


def host() -> str:
    """Return this machine's stable id: twelve hexadecimal digits, different on each machine."""
    machine = Path("/etc/machine-id")
    machine_id = machine.read_text() if machine.exists() else ""
    return sha256_of(f"{platform.node()} {machine_id}".encode())[:12]


def cache_folder() -> Path:
    """Return the folder for results that kvci can compute again. Users may delete the folder."""
    parent = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("KVCI_CACHE") or Path(parent, "kvci"))


def gpu() -> str:
    """Return each GPU's name and driver version from nvidia-smi; empty without a GPU."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "; ".join(done.stdout.splitlines()) if done.returncode == 0 else ""


@contextlib.contextmanager
def lock_gpus() -> Iterator[None]:
    """Lock this machine's GPUs against other runs. Raises UserError if another run locks them."""
    lock = open_lock(GPU_LOCK)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                "Another kvci run uses this machine's GPU, and two runs would change each other's "
                "speed and memory; wait until that run ends."
            ) from None
        yield
    finally:
        os.close(lock)


def process() -> str:
    """Return this process's id: `host/pid@boot.start.namespace`. No later process has this id."""
    pid = os.getpid()
    return f"{host()}/{pid}@{_boot()}.{_start(pid)}.{_namespace()}"


def ended(name: str) -> bool:
    """True if `name` is the id of a process of this machine, and this process has ended.

    A process in another container cannot be checked, so the result is False until the next boot.
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
    """Return the namespace in which process numbers are unique (pid_namespaces(7))."""
    return str(os.stat("/proc/self/ns/pid").st_ino)


def _start(pid: int) -> str:
    """Return a process's start in clock ticks since boot; empty if the process has ended.

    The number is field 22 of proc_pid_stat(5). Setting the clock does not change it.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
