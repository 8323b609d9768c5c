"""Test the forecast of `kvci plan`."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from kvci.cli import main
from kvci.files import write_atomic
from tests.conftest import MODEL
from tests.record.made import SPEC
from tests.run.made import outcome

BASE = ["plan", "--model", str(MODEL), "--kv", "f16/f16"]
WORDS = [*BASE, "--kv", "q8_0/q8_0", "--dataset", "calibration:functions=3,count=300"]


def plan(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, [*WORDS, *words])
    return done.exit_code, done.output


def test_plan_shows_trials_detectable_effect_and_cost() -> None:
    code, text = plan("--base-rate", "0.5", "--trial-s", "60", "--slots", "4")
    assert code == 0
    assert "300 instances x 2 arms (f16-f16, q8_0-q8_0) x 1 seed: 600 trials in 75 blocks" in text
    assert "Minimum detectable effect: 7.7 points of harm with 80% power" in text
    assert "cost: 2h30m on one machine" in text
    assert (
        "assumed: ICC 0.5; one-sided tests at 5%, with Holm's correction over the KV arms" in text
    )


def test_plan_states_when_run_cannot_answer() -> None:
    hopeless = plan("--base-rate", "0.01")[1]
    assert "This run cannot answer: if the baseline resolves 1% of the instances" in hopeless
    assert "300 instances are too few" in hopeless
    text = plan("--base-rate", "0.5", "--margin", "0.03")[1]
    assert "This run cannot answer for the margin of 3.0 points" in text
    needed = json.loads(plan("--base-rate", "0.5", "--margin", "0.03", "--json")[1])
    assert f"for 80% it needs {needed['instances_for_margin']} instances" in text
    one_arm = CliRunner().invoke(main, [*BASE, "--dataset", "calibration", "--base-rate", "0.5"])
    assert "no arm has another KV type" in one_arm.output


def test_margin_needs_power_for_non_inferiority_only() -> None:
    """Many KV arms have low power to show harm of 5 points, but enough for non-inferiority."""
    arms = [word for kv in ("q5_1/q5_1", "q5_0/q5_0", "q4_1/q4_1", "q4_0/q4_0") for word in
            ("--kv", kv)]  # fmt: skip
    words = ("--base-rate", "0.5", "--margin", "0.05", *arms)
    words += ("--dataset", "calibration:functions=2,count=700")
    found = json.loads(plan(*words, "--json")[1])
    assert found["minimum_detectable_effect"] > 0.05 and found["power_of_no_harm"] > 0.8
    assert "With the margin of 5.0 points, the run claims non-inferiority of" in plan(*words)[1]
    assert "even a total loss is within it" in plan("--base-rate", "0.2", "--margin", "0.3")[1]
    assert "more than 100,000 instances" in plan("--base-rate", "0.5", "--margin", "0.0001")[1]


def test_nan_is_refused() -> None:
    for words in (("--base-rate", "nan"), ("--base-rate", "0.5", "--trial-s", "nan")):
        code, text = plan(*words)
        assert code == 2 and "is not a finite number" in text


def test_there_are_at_most_as_many_shards_as_instances() -> None:
    words = ("--dataset", "calibration:functions=2,count=5", "--shard", "1/7", "--json")
    found = json.loads(plan("--base-rate", "0.5", *words)[1])
    assert found["shards"] == [f"{number}/5" for number in range(1, 6)] and found["blocks"] == 5


def test_shard_without_an_instance_is_refused() -> None:
    words = ("--dataset", "calibration:functions=2,count=5", "--shard", "6/7")
    code, text = plan("--base-rate", "0.5", *words)
    assert code == 2 and "only 5 instances for 7 shards; give at most 5 shards" in text


@pytest.mark.parametrize("value", ["-5", "0", "0m"])
def test_expected_time_must_be_more_than_0(value: str) -> None:
    code, text = plan("--base-rate", "0.5", "--expected-trial", value)
    assert code == 2 and "is not more than 0" in text


def test_measured_run_of_later_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trials" / "f16-f16" / "a" / "0" / "outcome.json"
    write_atomic(path, outcome("f16-f16", "a").model_dump_json())
    write_atomic(tmp_path / "spec.json", json.dumps({"schema_version": 9}))
    code, text = plan("--base-rate", "0.5", "--measured", str(tmp_path))
    assert code == 2 and "use the kvci that wrote it" in text


def test_only_kv_arms_raise_minimum_detectable_effect() -> None:
    def effect(*arms: str) -> float:
        words = [word for arm in arms for word in ("--kv", arm)]
        found: float = json.loads(plan("--base-rate", "0.5", "--json", *words)[1])[
            "minimum_detectable_effect"
        ]
        return found

    assert effect("q4_0/q4_0") > effect()
    assert effect("f16/f16 -ub 32") == effect()


def test_shards_make_matrix_and_measured_run_gives_cost(tmp_path: Path) -> None:
    for name, solve_s in (("a", 30.0), ("b", 90.0)):
        path = tmp_path / "trials" / "f16-f16" / name / "0" / "outcome.json"
        write_atomic(path, outcome("f16-f16", name, solve_s=solve_s).model_dump_json())
    SPEC.write(tmp_path / "spec.json")
    words = ("--base-rate", "0.5", "--shard", "1/3", "--measured", str(tmp_path), "--json")
    found = json.loads(plan(*words)[1])
    assert found["shards"] == ["1/3", "2/3", "3/3"]
    assert (found["instances"], found["hours"]) == (300, 10.0)
    for shard in ("shard-1-of-2", "shard-2-of-2"):
        path = tmp_path / "run" / shard / "trials" / "f16-f16" / "a" / "0" / "outcome.json"
        write_atomic(path, outcome("f16-f16", "a", solve_s=60.0).model_dump_json())
        SPEC.write(tmp_path / "run" / shard / "spec.json")
    sharded = plan("--base-rate", "0.5", "--measured", str(tmp_path / "run"), "--json")
    assert json.loads(sharded[1])["hours"] == 10.0
    nothing = plan("--base-rate", "0.5", "--measured", str(tmp_path / "none"))
    assert nothing[0] == 2 and "no finished trial" in nothing[1]
