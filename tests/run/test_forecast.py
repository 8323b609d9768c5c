"""What `kvci plan` says beforehand."""

import json
from pathlib import Path

from click.testing import CliRunner

from kvci.cli import main
from kvci.files import write_atomic
from tests.conftest import MODEL
from tests.run.made import outcome

BASE = ["plan", "--model", str(MODEL), "--kv", "f16/f16"]
WORDS = [*BASE, "--kv", "q8_0/q8_0", "--dataset", "calibration:functions=3,count=300"]


def plan(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, [*WORDS, *words])
    return done.exit_code, done.output


def test_it_says_what_will_run_and_what_that_can_show() -> None:
    code, text = plan("--base-rate", "0.5", "--trial-s", "60", "--slots", "4")
    assert code == 0
    assert "300 instances x 2 arms (f16-f16, q8_0-q8_0) x 1 seed: 600 trials in 75 blocks" in text
    assert "It shows harm of 7.7 points or more with 80% power" in text
    assert "cost: 2.5 h of one machine" in text
    assert "assumed: ICC 0.5, 5 % one-sided, Holm over the KV arms" in text


def test_it_says_plainly_when_it_cannot_answer() -> None:
    assert "It cannot answer: where the baseline resolves 1.0%" in plan("--base-rate", "0.01")[1]
    text = plan("--base-rate", "0.5", "--margin", "0.03")[1]
    assert "It cannot answer for the margin of 3.0 points" in text
    needed = json.loads(plan("--base-rate", "0.5", "--margin", "0.03", "--json")[1])
    assert f"{needed['instances_for_margin']} instances would" in text
    alone = CliRunner().invoke(main, [*BASE, "--dataset", "calibration", "--base-rate", "0.5"])
    assert "no arm has another KV type" in alone.output


def test_a_margin_asks_for_no_harm_and_not_for_harm() -> None:
    """So many KV arms see harm of 5 points late, and still claim that there is none."""
    arms = [word for kv in ("q5_1/q5_1", "q5_0/q5_0", "q4_1/q4_1", "q4_0/q4_0") for word in
            ("--kv", kv)]  # fmt: skip
    words = ("--base-rate", "0.5", "--margin", "0.05", *arms)
    words += ("--dataset", "calibration:functions=2,count=700")
    found = json.loads(plan(*words, "--json")[1])
    assert found["smallest_effect"] > 0.05 and found["power_of_no_harm"] > 0.8
    assert "Of an arm that does no harm it says" in plan(*words)[1]
    assert "a total loss would be within it" in plan("--base-rate", "0.2", "--margin", "0.3")[1]
    assert "over 100,000 instances" in plan("--base-rate", "0.5", "--margin", "0.0001")[1]


def test_numbers_that_are_none() -> None:
    for words in (("--base-rate", "nan"), ("--base-rate", "0.5", "--trial-s", "nan")):
        code, text = plan(*words)
        assert code == 2 and "is no number" in text


def test_a_run_is_divided_into_no_more_shards_than_it_has_instances() -> None:
    words = ("--dataset", "calibration:functions=2,count=5", "--shard", "1/7", "--json")
    found = json.loads(plan("--base-rate", "0.5", *words)[1])
    assert found["shards"] == [f"{number}/5" for number in range(1, 6)] and found["blocks"] == 5


def test_more_kv_arms_see_less_and_a_control_arm_costs_only_time() -> None:
    def effect(*arms: str) -> float:
        words = [word for arm in arms for word in ("--kv", arm)]
        found: float = json.loads(plan("--base-rate", "0.5", "--json", *words)[1])[
            "smallest_effect"
        ]
        return found

    assert effect("q4_0/q4_0") > effect()
    assert effect("f16/f16 -ub 32") == effect()


def test_shards_are_a_matrix_and_a_measured_run_gives_the_cost(tmp_path: Path) -> None:
    for name, solve_s in (("a", 30.0), ("b", 90.0)):
        path = tmp_path / "trials" / "f16-f16" / name / "0" / "outcome.json"
        write_atomic(path, outcome("f16-f16", name, solve_s=solve_s).model_dump_json())
    words = ("--base-rate", "0.5", "--shard", "1/3", "--measured", str(tmp_path), "--json")
    found = json.loads(plan(*words)[1])
    assert found["shards"] == ["1/3", "2/3", "3/3"]
    assert (found["instances"], found["hours"]) == (300, 10.0)
    for shard in ("shard-1-of-2", "shard-2-of-2"):
        path = tmp_path / "run" / shard / "trials" / "f16-f16" / "a" / "0" / "outcome.json"
        write_atomic(path, outcome("f16-f16", "a", solve_s=60.0).model_dump_json())
    sharded = plan("--base-rate", "0.5", "--measured", str(tmp_path / "run"), "--json")
    assert json.loads(sharded[1])["hours"] == 10.0
    nothing = plan("--base-rate", "0.5", "--measured", str(tmp_path / "none"))
    assert nothing[0] == 2 and "no finished trial" in nothing[1]
