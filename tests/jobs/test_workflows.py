"""Rules that all workflows follow."""

import re
import tomllib
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml

import kvci
from kvci.jobs.nightly import Nightly
from kvci.spec import Model, load
from tests.conftest import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ADOPT = sorted((ROOT / "ci" / "adopt").glob("*.yml"))
IGNORES = {
    ("benchmark.yml", "self-hosted-runner"),
    *((f"{name}.yml", "unpinned-uses") for name in ("benchmark", "nightly", "rerun", "review")),
    ("rerun.yml", "self-hosted-runner"),
    ("review.yml", "dangerous-triggers"),
}
"""File and audit of zizmor that the file ignores. Each ignored line gives a reason."""


def jobs(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())["jobs"]
    return found


def test_zizmor_ignores_are_listed_with_reasons() -> None:
    found = [
        (path.name, *match.groups())
        for path in (*WORKFLOWS, *ADOPT)
        for match in re.finditer(r"zizmor: ignore\[([\w,-]+)\] ?(.*)", path.read_text())
    ]
    assert {(name, audit) for name, audit, _ in found} == IGNORES
    assert len(found) == len(IGNORES) + 1  # review.yml's trigger is in both folders
    assert all(reason for _, _, reason in found)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_input_reaches_shell_and_actions_are_pinned(path: Path) -> None:
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
def test_gpu_job_has_no_secret_and_no_fork(path: Path) -> None:
    triggers = set(yaml.safe_load(path.read_text())[True])  # YAML 1.1 reads `on` as True
    for job in jobs(path).values():
        if job["runs-on"] == ["self-hosted", "gpu"]:
            assert triggers <= {"workflow_dispatch", "workflow_call"}
            assert job["permissions"] == {"contents": "read"}
            assert "secrets" not in str(job) and "github.token" not in str(job)
        else:
            assert job["runs-on"] == "ubuntu-24.04"


def form(path: Path, trigger: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())[True][trigger]["inputs"]
    return found


@pytest.mark.parametrize("path", ADOPT, ids=lambda path: path.name)
def test_adopted_workflow_passes_all_inputs_and_permissions(path: Path) -> None:
    (job,) = jobs(path).values()
    callee = ROOT / ".github" / "workflows" / path.name
    assert job["uses"] == f"OWNER/kvci/.github/workflows/{path.name}@v{kvci.__version__}"
    for one in jobs(callee).values():
        for name, level in one["permissions"].items():
            assert job["permissions"].get(name) in {level, "write"}, (name, level)
    if "with" in job:
        assert set(job["with"]) == set(form(callee, "workflow_call"))
        assert form(path, "workflow_dispatch") == form(callee, "workflow_dispatch")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_dispatch_and_call_have_same_inputs(path: Path) -> None:
    triggers = yaml.safe_load(path.read_text())[True]
    if "workflow_call" in triggers and triggers.get("workflow_dispatch"):
        assert set(form(path, "workflow_dispatch")) == set(form(path, "workflow_call"))


def test_toml_examples_of_guide_are_valid(tmp_path: Path) -> None:
    page = (ROOT / "ci" / "README.md").read_text()
    texts = [dedent(text) for text in re.findall(r"```toml\n(.*?)```", page, re.S)]
    (experiment,) = [text for text in texts if "arms" in text]
    (nightly,) = [text for text in texts if "experiments" in text]
    models = [text for text in texts if text.startswith("name")]
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "your-model.toml").write_text(models[0])
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "name.toml").write_text(experiment)
    assert load(tmp_path / "experiments" / "name.toml", {}).seeds == (0, 1)
    assert Nightly.model_validate(tomllib.loads(nightly)).experiments == ("name",)
    assert len(models) == 2
    Model.model_validate(tomllib.loads(models[1].replace('"..."', f'"{"0" * 64}"')))


@pytest.mark.parametrize("name", ["benchmark.yml", "rerun.yml"])
def test_failed_restore_uploads_no_evidence(name: str) -> None:
    """Otherwise, an old folder of this machine would become the newest evidence."""
    (path,) = [path for path in WORKFLOWS if path.name == name]
    steps = jobs(path)["run"]["steps"]
    ids = [step.get("id") for step in steps]
    assert "kvci ci restore" in steps[ids.index("restore")]["run"]
    condition = steps[ids.index("evidence")]["if"]
    assert condition == "always() && steps.restore.outcome == 'success'"


@pytest.mark.parametrize(
    ("name", "condition"),
    [
        ("benchmark.yml", "needs.collect.result == 'success'"),
        ("rerun.yml", "needs.run.result != 'skipped' && needs.run.outputs.evidence"),
    ],
)
def test_publish_runs_only_with_something_to_publish(name: str, condition: str) -> None:
    """Otherwise, publish would start after any failure, and its failure would hide the reason."""
    (path,) = [path for path in WORKFLOWS if path.name == name]
    assert f"!cancelled() && {condition} && " in jobs(path)["publish"]["if"]
    evidence = jobs(path)["run"].get("outputs", {}).get("evidence", "")
    assert evidence == "${{ steps.evidence.outputs.artifact }}" * (name == "rerun.yml")


@pytest.mark.parametrize("folder", [WORKFLOWS, ADOPT], ids=["ours", "adopted"])
def test_run_name_ends_with_run_id_for_nightly(folder: list[Path]) -> None:
    (path,) = [path for path in folder if path.name == "benchmark.yml"]
    name = yaml.safe_load(path.read_text())["run-name"]
    assert name.endswith("${{ inputs.run_id && format(' ({0})', inputs.run_id) || '' }}")
