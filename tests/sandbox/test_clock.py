"""Work beside a command does not end the command."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from os import cpu_count
from pathlib import Path

import pytest

from kvci.sandbox import capped, clock
from kvci.sandbox.interface import Limits

LIMIT_S = 2.0
WORK = "import time\nwhile time.process_time() < 1.4: pass"
"""Needs 70 % of the limit on an idle machine."""


@contextmanager
def load() -> Iterator[None]:
    """Three busy processes for each CPU."""
    spin = ["bash", "-c", "while :; do :; done"]
    count = 3 * (cpu_count() or 1)
    spinning = [subprocess.Popen(spin, start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for one in spinning:
            one.kill()
            one.wait()


@pytest.mark.skipif(not clock.measures_load(), reason="this kernel does not measure its load")
@pytest.mark.parametrize("under_load", [True, False])
def test_load_beside_command_ends_it_only_without_the_option(under_load: bool) -> None:
    with load():
        done = capped.run([sys.executable, "-c", WORK], Limits(LIMIT_S, under_load=under_load))
    assert done.timed_out is not under_load
    assert done.wall_s > LIMIT_S


def test_idle_command_ends_at_its_limit_and_busy_one_at_its_maximum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "PRESSURE", tmp_path)
    (tmp_path / "cpu").write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=5000000\n")
    limits = Limits(0.2, under_load=True)
    done = capped.run(["sleep", "9"], limits)
    assert done.timed_out and 0.2 <= done.wall_s < 0.7

    one = clock.Clock(limits)
    (tmp_path / "cpu").write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=99000000\n")
    while one.left_s() > 0:
        pass
    assert one.wall_s >= 0.2 * clock.BUSY_MAX


def test_kernel_without_load_figures_keeps_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "PRESSURE", tmp_path / "none")
    assert not clock.measures_load()
    assert capped.run(["sleep", "9"], Limits(0.2, under_load=True)).wall_s < 0.7
