"""The summary and the outputs of the plan job."""

import json
from pathlib import Path

import pytest

from kvci.jobs.inputs import inputs
from kvci.jobs.prepare import earlier, new_run_id, prepare
from tests.conftest import ROOT
from tests.record.made import SPEC, record

FORM = {"model": "calibration", "kv": "f16/f16, q8_0/q8_0", "dataset": "calibration:count=2"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "ci" / "results").mkdir(parents=True)
    (tmp_path / "ci" / "models").symlink_to(ROOT / "ci" / "models")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    monkeypatch.delenv("GITHUB_RUN_ID", raising=False)
    return tmp_path


def planned(here: Path, **form: str) -> str:
    prepare(inputs(json.dumps(FORM | form)), here / "before", None)
    text = (here / "summary.md").read_text()
    (here / "summary.md").unlink()
    return text


def test_summary_starts_with_answer_and_shows_cost(here: Path) -> None:
    text = planned(here)
    assert (
        text.startswith("**This run cannot answer: ")
        and "| cost | not known; add `--expected-trial" in text
    )
    asked = planned(here, options="--expected-trial 30m --time-budget 30m")
    assert "| cost | 2h on one machine" in asked and "no block begins after 30m" in asked
    assert 'x-axis ["2", "5", "10", "15", "20", "30"]' in asked and "```mermaid" in asked
    outputs = dict(line.split("=", 1) for line in (here / "output").read_text().splitlines())
    assert outputs["shards"] == '["1/1"]' and outputs["timeout_minutes"] == "120"


def test_summary_says_which_inputs_an_experiment_replaces(here: Path) -> None:
    (here / "ci" / "experiments").symlink_to(ROOT / "ci" / "experiments")
    assert "are not used" not in planned(here)
    text = planned(here, experiment="demo", limit="3", context="65536")
    assert "the inputs model, kv, dataset, limit, context, margin are not used" in text
    assert "20 instances x 3 arms" in text


def test_estimates_come_from_newest_matching_record(here: Path) -> None:
    assert earlier(SPEC, here / "ci" / "results") is None
    for hour, solve_s in ((9, 5.0), (11, 7.0), (10, 9.0)):
        one = record(0, start=f"2026-02-01T{hour:02}:00:00Z")
        trials = tuple(trial.model_copy(update={"solve_s": solve_s}) for trial in one.trials)
        one.model_copy(update={"trials": trials}).write(
            here / "ci" / "results" / f"{one.row_id}.json"
        )
    other = record(1, start="2026-02-01T12:00:00Z")
    other.write(here / "ci" / "results" / f"{other.row_id}.json")
    known = earlier(SPEC, here / "ci" / "results")
    assert known and "20260201_110000" in known.row_id
    assert (known.trial_s, known.base_rate) == (7.0, 0.5)
    renamed = SPEC.model_copy(update={"model": SPEC.model.model_copy(update={"name": "other"})})
    assert earlier(renamed, here / "ci" / "results") is None


def test_run_id_contains_workflow_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_RUN_ID", "77")
    assert new_run_id(SPEC) == "calibration-small-77"
