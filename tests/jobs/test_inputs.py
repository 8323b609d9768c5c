"""The inputs of a form: valid inputs become fields, and kvci refuses all other inputs."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from kvci.cli import main
from kvci.errors import UserError
from kvci.jobs.inputs import inputs


def test_empty_inputs_give_no_fields() -> None:
    empty = dict.fromkeys(("experiment", "model", "kv", "dataset", "limit", "options"), "")
    assert inputs(json.dumps(empty | {"margin": " ", "publish": False})).asked() == (None, {})


def test_form_becomes_fields_of_specification() -> None:
    form = {
        "model": "calibration-twin",
        "kv": "f16/f16, f16/f16 -ub 32,q8_0/q8_0",
        "limit": "3",
        "margin": "0.05",
        "options": "--filter 'a|b' --seeds 1,2 --temperature 0.7 --shards 4 --time-budget 90m",
        "publish": True,
    }
    file, asked = inputs(json.dumps(form)).asked()
    assert file is None
    assert asked == {
        "model": "ci/models/calibration-twin.toml",
        "arms": ["f16/f16", "f16/f16 -ub 32", "q8_0/q8_0"],
        "filter": "a|b",
        "limit": 3,
        "seeds": [1, 2],
        "temperature": 0.7,
        "shard": "1/4",
        "margin": 0.05,
        "time_budget_s": 5400.0,
    }


@pytest.mark.parametrize("kv", ["f16/f16, q8_0/q8_0", "f16/f16,q4_0/q4_0"])
def test_experiment_is_never_changed_by_defaults_of_a_form(kv: str) -> None:
    """Each repository has a form of its own, and GitHub fills in that form's defaults."""
    form = {"model": "other", "kv": kv, "context": "65536", "margin": "0.05", "limit": "3"}
    form |= {"experiment": "demo", "options": "--slots 4"}
    assert inputs(json.dumps(form)).asked() == (Path("ci/experiments/demo.toml"), {"slots": 4})


def test_trial_limit_is_not_expected_time() -> None:
    form = inputs(json.dumps({"options": "--trial-time 2h --expected-trial 3m"}))
    assert (form.asked()[1], form.expected_trial_s) == ({"trial_s": 7200.0}, 180.0)
    assert inputs(json.dumps({"options": "--trial-time 2h"})).expected_trial_s is None


def test_options_line_takes_what_kvci_plan_takes() -> None:
    form = inputs(json.dumps({"options": "--trial-s 3m --icc 0 --base-rate 0.9"}))
    assert (form.expected_trial_s, form.icc, form.base_rate) == (180.0, 0.0, 0.9)
    assert form.asked() == (None, {})


def test_options_line_keeps_backslashes_and_quotes() -> None:
    line = "--filter ^django__.*\\d$ --kv 'f16/f16 -ub 32'"
    _, asked = inputs(json.dumps({"options": line})).asked()
    assert asked == {"filter": "^django__.*\\d$", "arms": ["f16/f16 -ub 32"]}


def test_options_line_ignores_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVCI_DISK_BUDGET", "9GB")
    monkeypatch.setenv("KVCI_RUNS", "/elsewhere")
    assert inputs(json.dumps({"options": "--slots 2"})).more == {"slots": 2}


def test_options_line_overrides_the_form() -> None:
    form = {"dataset": "lite", "kv": "f16/f16", "options": "--dataset OWNER/NAME --kv q8_0/q8_0"}
    _, asked = inputs(json.dumps(form)).asked()
    assert asked == {"dataset": "OWNER/NAME", "arms": ["q8_0/q8_0"]}


def test_semicolons_separate_arms_whose_flags_contain_commas() -> None:
    _, asked = inputs(json.dumps({"kv": "f16/f16; q8_0/q8_0 -ts 3,1;"})).asked()
    assert asked["arms"] == ["f16/f16", "q8_0/q8_0 -ts 3,1"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", '"; rm -rf /; "'),
        ("model", "$(touch x)"),
        ("model", "../../etc/passwd"),
        ("model", "a\nb"),
        ("experiment", "a|b"),
        ("experiment", "/etc/x"),
        ("dataset", "$(id)"),
        ("dataset", "a`id`"),
        ("dataset", "lite\n"),
        ("options", "--filter x\ny"),
        ("options", "--filter x\u2028y"),
        ("options", "--filter " + "x" * 2000),
        ("kv", "f16/f16\n::set-output"),
        ("limit", "3; ls"),
        ("limit", "0"),
        ("limit", "-1"),
        ("margin", "nan"),
        ("margin", "2"),
        ("options", "--seeds " + "9" * 5000),
        ("limit", "9" * 5000),
        ("unknown", "x"),
        ("publish", "perhaps"),
    ],
)
def test_hostile_or_wrong_input_is_explained(name: str, value: str) -> None:
    with pytest.raises(UserError, match=r"^The (workflow's inputs are|input) "):
        inputs(json.dumps({name: value}))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--seeds 1,x", "is not a list of whole numbers"),
        ("--shards 1e9x", "is not a whole number"),
        ("--shards 257", "is not in the range"),
        ("--time-budget 999999999999", "longer than a job may run"),
        ("--time-budget soon", "is not a duration"),
        ("--engine /bin/sh", "--engine cannot be set here; the runner sets it."),
        ("--engine=/bin/sh", "--engine cannot be set here; the runner sets it."),
        ("--out /", "--out cannot be set here; the runner sets it."),
        ("--disk-reserve 0", "--disk-reserve cannot be set here; the runner sets it."),
        ("--shard 1/2", "--shard cannot be set here; .* write --shards COUNT"),
        ("--start now", "--start cannot be set here; the workflow sets it."),
        ("--run-id x", "--run-id cannot be set here; write the id into the input run_id."),
        ("--measured runs/x", "--measured cannot be set here; .* --expected-trial DURATION."),
        ("--slotz 4", "No such option"),
        ("--slots", "requires an argument"),
        ("lite", "unexpected extra argument"),
        ("--filter 'a", "No closing quotation"),
    ],
)
def test_wrong_options_line_is_explained(line: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        inputs(json.dumps({"options": line})).asked()


@pytest.mark.parametrize(
    "text", ["[" * 60_000, "", "{", "[]", "3", "null", '{"a": 1' + " " * 70_000]
)
def test_invalid_form_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        inputs(text)


def test_verbs_read_form_from_environment() -> None:
    form = {"model": "calibration", "dataset": "calibration", "kv": "f16/f16,q8_0/q8_0"}
    form |= {"limit": "2"}
    words = ["plan", "--base-rate", "0.5", "--json"]
    done = CliRunner().invoke(main, words, env={"KVCI_INPUTS": json.dumps(form)})
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["trials"] == 4
    alone = json.dumps({"experiment": "demo", "options": "--kv f16/f16 --limit 3"})
    done = CliRunner().invoke(main, words, env={"KVCI_INPUTS": alone})
    assert json.loads(done.output)["trials"] == 3
    words += ["--limit", "1"]
    done = CliRunner().invoke(main, words, env={"KVCI_INPUTS": json.dumps(form)})
    assert json.loads(done.output)["trials"] == 2
    bad = json.dumps(form | {"kv": "f16/f16, `id`"})
    done = CliRunner().invoke(main, words, env={"KVCI_INPUTS": bad})
    assert done.exit_code == 2 and "is not a KV type" in done.output


def test_failing_job_writes_reason_to_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    done = CliRunner().invoke(main, ["ci", "prepare", "--inputs", '{"limit": "<b>x"}'])
    text = (tmp_path / "summary.md").read_text()
    assert done.exit_code == 2 and text.startswith("**It failed:** `The workflow's inputs")
    monkeypatch.setattr("kvci.doctor._memory", lambda *_: ("little", "Buy <b>more."))
    done = CliRunner().invoke(main, ["doctor", "--engine", "embedded"])
    line = (tmp_path / "summary.md").read_text().splitlines()[-2]
    assert done.exit_code == 1 and line == "**It failed:** `memory: little; Buy <b>more.`"
