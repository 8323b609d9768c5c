"""Tests that child processes end with kvci."""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from kvci.children import in_child, worker

MAKE = """
import os, signal
from kvci.children import worker
if __name__ == "__main__":
    pool = worker(PRELOAD)
    print(pool.submit(os.getpid).result(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("preload", ["", "json.tool"])
def test_idle_worker_ends_with_killed_kvci(preload: str, tmp_path: Path) -> None:
    script = tmp_path / "make.py"
    script.write_text(MAKE.replace("PRELOAD", repr(preload)))
    made = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, text=True, timeout=60)
    deadline = time.monotonic() + 10
    while psutil.pid_exists(int(made.stdout)):
        assert time.monotonic() < deadline, "the worker still runs"
        time.sleep(0.05)


def test_worker_needs_no_short_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 100)))
    with worker("json.tool") as pool:
        assert pool.submit(int, "7").result(60) == 7


def test_worker_has_the_present_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process from which it is forked has an older one."""
    for value in ("one", "two"):
        monkeypatch.setenv("KVCI_TEST", value)
        with worker("json.tool") as pool:
            assert pool.submit(os.getenv, "KVCI_TEST").result(60) == value
            assert pool.submit(os.getcwd).result(60) == os.getcwd()


def test_child_returns_its_result() -> None:
    large = "x" * (1 << 20)
    assert in_child(lambda: large, 60) == large
    assert in_child(os.getpid, 60) != os.getpid()


def test_child_ends_in_time() -> None:
    """No signal within a process ends this search."""
    started, before = time.monotonic(), psutil.Process().children()
    with pytest.raises(TimeoutError):
        in_child(lambda: re.search(r"ab\w*:", "ab" * 5_000_000), 0.5)
    assert time.monotonic() - started < 30
    assert psutil.Process().children() == before


def test_child_without_result_is_an_error() -> None:
    with pytest.raises(EOFError):
        in_child(lambda: os._exit(1), 60)


def test_child_has_a_memory_limit() -> None:
    def large() -> str:
        try:
            return str(len(bytearray(512 << 20)))
        except MemoryError:
            return "none left"

    assert in_child(large, 60, 16 << 20) == "none left"
    assert in_child(large, 60, 1 << 30) == str(512 << 20)
