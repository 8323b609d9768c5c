"""kvci runs the harness with a new run id each time, and removes its containers."""

import subprocess
from pathlib import Path

import pytest

from kvci.docker import engine
from kvci.grade import harness
from kvci.tasks.calibration import generate
from tests.made_images import calibration_image


def test_every_comparison_has_its_own_run_id(
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


def test_containers_of_a_killed_harness_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The containers have no label of kvci. They never end, and their images stay in use."""
    names = ["kvci-0123456789ab", "kvci-0123456789ac"]
    (tmp_path / "logs" / "run_evaluation" / names[0]).mkdir(parents=True)
    done = subprocess.CompletedProcess([], 0, "", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    containers = engine.client().containers
    made = [
        containers.run(
            calibration_image(), ["sleep", "99"], name=f"sweb.eval.x.{name}", detach=True
        )
        for name in names
    ]
    try:
        harness.evaluate([], {}, tmp_path, 60.0)
        left = {one.id for one in containers.list(all=True)}
        assert [one.id in left for one in made] == [False, True], (
            "the second container belongs to another folder"
        )
    finally:
        made[1].remove(force=True)
