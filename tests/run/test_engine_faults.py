"""If Docker fails during a run, every trial still gets its expected class."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker.errors import APIError

from kvci.docker import engine
from kvci.docker.engine import OWNER
from kvci.rundir.directory import RunDirectory
from kvci.tasks.script import EXPECTED
from tests.own_daemon import Daemon, own_daemon

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]
DISK_BYTES = 3 << 30
WORDS = [sys.executable, "-c", "from kvci.cli import main; main()"]
WORDS += ["scripted", "--sandbox", "docker", "--run-id", "r", "--out"]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with own_daemon(DISK_BYTES) as one:
        yield one


class Running:
    """A scripted run in its own process."""

    def __init__(self, out: Path) -> None:
        self.folder = out / "r"
        self.process = subprocess.Popen(
            [*WORDS, str(out)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def until(self, trials: int) -> None:
        """Return as soon as this number of trials is finished."""
        end = time.monotonic() + 300
        while len(list(self.folder.glob("trials/*/*/*/outcome.json"))) < trials:
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < end, "the run makes no progress"
            time.sleep(0.1)

    def end(self) -> None:
        """Check that the run completed with the expected classes and left no container."""
        output, _ = self.process.communicate(timeout=900)
        assert self.process.returncode == 0, output
        assert len(RunDirectory(self.folder).outcomes()) == 2 * len(EXPECTED)
        assert not engine.client().containers.list(all=True, filters={"label": OWNER})


def test_killed_daemon_that_restarts(daemon: Daemon, tmp_path: Path) -> None:
    run = Running(tmp_path)
    for trials in (3, 12):
        run.until(trials)
        daemon.signal(signal.SIGKILL)
        time.sleep(5)
        daemon.start()
    run.end()


def test_hanging_daemon(daemon: Daemon, tmp_path: Path) -> None:
    run = Running(tmp_path)
    run.until(3)
    daemon.signal(signal.SIGSTOP)
    time.sleep(90)
    daemon.signal(signal.SIGCONT)
    run.end()


def test_stop_while_daemon_hangs(daemon: Daemon, tmp_path: Path) -> None:
    run = Running(tmp_path)
    run.until(3)
    daemon.signal(signal.SIGSTOP)
    try:
        time.sleep(3)
        began = time.monotonic()
        run.process.send_signal(signal.SIGINT)
        output, _ = run.process.communicate(timeout=120)
        assert time.monotonic() - began < 5
        assert "To resume" in output and "Traceback" not in output, output
    finally:
        daemon.signal(signal.SIGCONT)
    Running(tmp_path).end()


def test_full_disk(daemon: Daemon, tmp_path: Path) -> None:
    run = Running(tmp_path)
    run.until(3)
    with daemon.filled():
        time.sleep(30)
    run.end()


def test_containers_removed_by_hand(daemon: Daemon, tmp_path: Path) -> None:
    run = Running(tmp_path)
    removed = 0
    while removed < 5:
        run.until(0)
        listed = engine.client().containers.list(filters={"label": OWNER}, ignore_removed=True)
        for container in listed[:1]:
            with contextlib.suppress(APIError):  # kvci may remove it at the same time
                container.remove(force=True)
                removed += 1
        time.sleep(4)
    run.end()


def test_kvci_killed_while_daemon_is_down(daemon: Daemon, tmp_path: Path) -> None:
    run = Running(tmp_path)
    run.until(4)
    daemon.signal(signal.SIGKILL)
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.communicate()
    daemon.start()
    Running(tmp_path).end()
