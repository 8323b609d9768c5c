"""The harness is asked anew each time: of a run that it knows it only repeats the reports."""

import subprocess
from pathlib import Path

import pytest

from kvci.docker import engine
from kvci.grade import harness
from kvci.tasks.calibration import generate
from tests.made_images import calibration_image


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


def test_the_containers_of_a_harness_that_was_ended_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They had no label of kvci's, slept for ever and kept their images."""
    names = ["kvci-0123456789ab", "kvci-0123456789ac"]
    (tmp_path / "logs" / "run_evaluation" / names[0]).mkdir(parents=True)
    done = subprocess.CompletedProcess([], 0, "", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    some = engine.client().containers
    made = [
        some.run(calibration_image(), ["sleep", "99"], name=f"sweb.eval.x.{name}", detach=True)
        for name in names
    ]
    try:
        harness.evaluate([], {}, tmp_path, 60.0)
        left = {one.id for one in some.list(all=True)}
        assert [one.id in left for one in made] == [False, True], "the other is somebody else's"
    finally:
        made[1].remove(force=True)
