"""Tests that child processes end with kvci."""

import subprocess
import sys
import time
from pathlib import Path

import psutil

MAKE = """
import os, signal
from kvci.children import worker
if __name__ == "__main__":
    pool = worker()
    print(pool.submit(os.getpid).result(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_idle_worker_ends_with_killed_kvci(tmp_path: Path) -> None:
    script = tmp_path / "make.py"
    script.write_text(MAKE)
    made = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, text=True, timeout=60)
    deadline = time.monotonic() + 10
    while psutil.pid_exists(int(made.stdout)):
        assert time.monotonic() < deadline, "the worker still runs"
        time.sleep(0.05)
