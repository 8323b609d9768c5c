"""What `kvci plan` says beforehand."""

import json
from pathlib import Path

from click.testing import CliRunner

from kvci.cli import main
from kvci.files import write_atomic
from tests.conftest import GEMMA
from tests.run.made import outcome

BASE = ["plan", "--model", str(GEMMA), "--kv", "f16/f16"]
WORDS = [*BASE, "--kv", "q8_0/q8_0", "--dataset", "calibration:functions=3,count=300"]


def plan(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, [*WORDS, *words])
    return done.exit_code, done.output


def test_it_says_what_will_run_and_what_that_can_show() -> None:
    code, text = plan("--base-rate", "0.5", "--trial-s", "60", "--slots", "4")
    assert code == 0
    assert "300 instances x 2 arms (f16-f16, q8_0-q8_0) x 1 seeds: 600 trials in 75 blocks" in text
    assert "It shows harm of 7.1 points or more with 80% power" in text
    assert "cost: 2.5 h of one machine" in text


def test_it_says_plainly_when_it_cannot_answer() -> None:
    assert "It cannot answer: where the baseline resolves 1.0%" in plan("--base-rate", "0.01")[1]
    text = plan("--base-rate", "0.5", "--margin", "0.03")[1]
    assert "It cannot answer for the margin of 3.0 points" in text
    needed = json.loads(plan("--base-rate", "0.5", "--margin", "0.03", "--json")[1])
    assert f"{needed['instances_for_margin']} instances would" in text
    alone = CliRunner().invoke(main, [*BASE, "--dataset", "calibration", "--base-rate", "0.5"])
    assert "no arm beside the baseline" in alone.output


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
    nothing = plan("--base-rate", "0.5", "--measured", str(tmp_path / "none"))
    assert nothing[0] == 2 and "no finished trial" in nothing[1]
