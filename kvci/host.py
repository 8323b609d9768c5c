"""This machine and this process, told apart from others without naming them."""

import platform
import re
import subprocess
from pathlib import Path

import psutil

from kvci.files import sha256_of


def host() -> str:
    """Twelve hexadecimal digits that are the same on this machine and differ on the next."""
    machine = Path("/etc/machine-id")
    known = machine.read_text() if machine.exists() else ""
    return sha256_of(f"{platform.node()} {known}".encode())[:12]


def gpu() -> str:
    """Name and driver version of each GPU as nvidia-smi says them; empty without one."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "; ".join(done.stdout.splitlines()) if done.returncode == 0 else ""


def process() -> str:
    """This process, among all that this machine ever ran: `host/pid@start`."""
    return _name(psutil.Process())


def ended(name: str) -> bool:
    """True if `name` is a process of this machine and lives no more."""
    match = re.fullmatch(r"(\w+)/(\d+)@[\d.]+", name)
    if not match or match[1] != host():
        return False
    try:
        return _name(psutil.Process(int(match[2]))) != name
    except psutil.NoSuchProcess:
        return True


def _name(process: psutil.Process) -> str:
    return f"{host()}/{process.pid}@{process.create_time():.2f}"
