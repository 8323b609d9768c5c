"""What every workflow keeps to."""

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
"""Of zizmor's audits; each stands beside its line with a reason."""


def jobs(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())["jobs"]
    return found


def test_the_ignores_are_these() -> None:
    found = [
        (path.name, *match.groups())
        for path in (*WORKFLOWS, *ADOPT)
        for match in re.finditer(r"zizmor: ignore\[([\w,-]+)\] ?(.*)", path.read_text())
    ]
    assert {(name, audit) for name, audit, _ in found} == IGNORES
    assert len(found) == len(IGNORES) + 1  # review.yml's trigger is ours and the adopter's
    assert all(reason for _, _, reason in found)


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


def form(path: Path, trigger: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())[True][trigger]["inputs"]
    return found


@pytest.mark.parametrize("path", ADOPT, ids=lambda path: path.name)
def test_a_caller_asks_for_all_that_its_callee_takes_and_lets_it(path: Path) -> None:
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
def test_a_form_and_a_call_take_the_same(path: Path) -> None:
    triggers = yaml.safe_load(path.read_text())[True]
    if "workflow_call" in triggers and triggers.get("workflow_dispatch"):
        assert set(form(path, "workflow_dispatch")) == set(form(path, "workflow_call"))


def test_the_experiments_of_the_adoption_page_are_valid(tmp_path: Path) -> None:
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
def test_a_job_that_could_not_take_up_the_run_uploads_nothing_of_it(name: str) -> None:
    """Else an old copy of this machine's would be the newest evidence."""
    (path,) = [path for path in WORKFLOWS if path.name == name]
    steps = jobs(path)["run"]["steps"]
    ids = [step.get("id") for step in steps]
    assert "kvci ci restore" in steps[ids.index("restore")]["run"]
    condition = steps[ids.index("evidence")]["if"]
    assert condition == "always() && steps.restore.outcome == 'success'"


@pytest.mark.parametrize(
    ("name", "there_is"),
    [
        ("benchmark.yml", "needs.collect.result == 'success'"),
        ("rerun.yml", "needs.run.result != 'skipped' && needs.run.outputs.evidence"),
    ],
)
def test_the_job_that_may_write_waits_for_something_to_publish(name: str, there_is: str) -> None:
    """Else it would start after any failure, and its own would hide the reason."""
    (path,) = [path for path in WORKFLOWS if path.name == name]
    assert f"!cancelled() && {there_is} && " in jobs(path)["publish"]["if"]
    evidence = jobs(path)["run"].get("outputs", {}).get("evidence", "")
    assert evidence == "${{ steps.evidence.outputs.artifact }}" * (name == "rerun.yml")


@pytest.mark.parametrize("folder", [WORKFLOWS, ADOPT], ids=["ours", "adopted"])
def test_a_run_s_name_ends_with_what_nightly_looks_for(folder: list[Path]) -> None:
    (path,) = [path for path in folder if path.name == "benchmark.yml"]
    name = yaml.safe_load(path.read_text())["run-name"]
    assert name.endswith("${{ inputs.run_id && format(' ({0})', inputs.run_id) || '' }}")
