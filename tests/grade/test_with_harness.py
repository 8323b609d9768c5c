"""The harness is asked anew each time: of a run that it knows it only repeats the reports."""

import subprocess
from pathlib import Path

import pytest

from kvci.grade import harness
from kvci.tasks.calibration import generate


def test_a_second_comparison_runs_the_harness_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def run(words: list[str], **_: object) -> "subprocess.CompletedProcess[str]":
        asked.append(words[words.index("--run-id") + 1])
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    row = generate("test", 1, functions=3).row
    for _ in range(2):
        assert harness.evaluate([row], {row.instance_id: row.patch}, tmp_path, 60.0) == {}
    assert len(set(asked)) == 2
