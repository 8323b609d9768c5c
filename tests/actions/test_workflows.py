"""What every workflow keeps to."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
IGNORES = {
    ("benchmark.yml", "self-hosted-runner"),
    ("rerun.yml", "self-hosted-runner"),
    ("review.yml", "dangerous-triggers"),
}
"""Of zizmor's audits; each stands beside its line with a reason."""


def jobs(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())["jobs"]
    return found


def test_the_ignores_are_these() -> None:
    found = [
        (path.name, *match.groups())
        for path in WORKFLOWS
        for match in re.finditer(r"zizmor: ignore\[([\w,-]+)\] ?(.*)", path.read_text())
    ]
    assert {(name, audit) for name, audit, _ in found} == IGNORES
    assert len(found) == len(IGNORES) and all(reason for _, _, reason in found)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_nothing_of_an_input_reaches_a_shell_and_every_action_is_pinned(path: Path) -> None:
    steps = [step for job in jobs(path).values() for step in job["steps"]]
    assert steps
    for step in steps:
        assert "${{" not in step.get("run", "")
        if uses := step.get("uses"):
            assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", uses)
            if uses.startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
        assert "timeout-minutes" not in step


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_the_gpu_is_near_no_fork_and_no_secret(path: Path) -> None:
    triggers = set(yaml.safe_load(path.read_text())[True])  # YAML 1.1 reads `on` so
    for job in jobs(path).values():
        if job["runs-on"] == ["self-hosted", "gpu"]:
            assert triggers <= {"workflow_dispatch", "workflow_call"}
            assert job["permissions"] == {"contents": "read"}
            assert "secrets" not in str(job) and "github.token" not in str(job)
        else:
            assert job["runs-on"] == "ubuntu-24.04"
