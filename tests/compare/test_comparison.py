"""Arms of one run, and what is matched only."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kvci.cli import main
from kvci.compare.comparison import compare
from kvci.compare.evidence import Comparison
from kvci.compare.side import Side, side_of
from kvci.record.record import Record, file_name
from tests.compare.made import run
from tests.record.test_mini import F16, Q8, earlier  # noqa: F401  (a fixture)


def sides(records: list[Record]) -> list[Side]:
    return [side for record in records if (side := side_of(record))]


def compared(arms: dict[str, list[str]], **asked: Any) -> Comparison:
    return compare(sides(run(arms, **asked)))


def test_harm_and_no_harm_of_one_run() -> None:
    found = compared(
        {
            "f16/f16": ["ok"] * 100 + ["fail"] * 100,
            "q8_0/q8_0": ["ok"] * 99 + ["fail"] * 101,
            "q4_0/q4_0": ["ok"] * 80 + ["empty"] * 20 + ["fail"] * 100,
        },
        margin=0.05,
    )
    assert found.paired and found.complete
    q8, q4 = found.arms
    assert (q8.claim, q4.claim) == ("non-inferior within the margin", "harm shown")
    assert (q4.valid.both, q4.valid.only_baseline, q4.valid.only_arm) == (80, 20, 0)
    assert q4.valid.inference and q4.valid.inference.difference == pytest.approx(0.1)
    assert [(f.baseline, f.arm) for f in q4.flips] == [("OK", "A6")] * 20
    assert q4.p_holm is not None and q4.p_holm < 1e-5
    lines = {line.name: line for line in q4.endpoints}
    assert (lines["patched"].baseline, lines["patched"].arm) == (200, 180)
    assert not lines["resolved"].exploratory and lines["patched"].exploratory


def test_infrastructure_drops_the_pair_and_counts_as_failure_beside() -> None:
    found = compared({"f16/f16": ["ok", "ok", "fail"], "q8_0/q8_0": ["infra", "ok", "fail"]})
    (arm,) = found.arms
    assert arm.valid.pairs == 2 and arm.everything.pairs == 3
    assert (arm.valid.only_baseline, arm.everything.only_baseline) == (0, 1)
    assert arm.dropped == {"arm I3": 1}


def test_a_pair_never_crosses_a_block() -> None:
    records = run({"f16/f16": ["ok", "ok"], "q8_0/q8_0": ["ok", "ok"]})
    moved = records[1].trials[0].model_copy(update={"host": "another"})
    records[1] = records[1].model_copy(update={"trials": (moved, records[1].trials[1])})
    (arm,) = compare(sides(records)).arms
    assert arm.valid.pairs == 1 and list(arm.dropped) == [
        "the pair crosses a block, or is not known"
    ]


def test_the_control_arm_is_the_noise_floor_and_no_kv_arm() -> None:
    same = {"f16/f16": ["ok", "fail"] * 20, "f16/f16 -ub 32": ["ok", "fail"] * 20}
    found = compared(same | {"q8_0/q8_0": ["fail", "ok"] * 20})
    control, arm = found.arms
    assert control.control and control.claim is None and control.identical
    assert not arm.control and arm.claim == "inconclusive"
    assert "control f16/f16 -ub 32 identical, noise floor not measured" in found.warnings
    assert "noise floor" not in " ".join(
        compared(same | {"f16/f16 -ub 32": ["fail", "fail"] * 20}).warnings
    )


def test_a_control_arm_that_differs_is_a_warning_above_all() -> None:
    found = compared({"f16/f16": ["ok"] * 40, "f16/f16 -ub 32": ["fail"] * 20 + ["ok"] * 20})
    assert "differs from the baseline by more than chance" in found.warnings[0]


def test_seeds_are_clusters() -> None:
    found = compared(
        {"f16/f16": ["ok", "ok", "fail"] * 30, "q8_0/q8_0": ["ok", "fail", "fail"] * 30},
        seeds=[1, 2, 3],
        temperature=0.7,
    )
    (arm,) = found.arms
    assert (arm.valid.pairs, arm.valid.instances) == (90, 30)
    inferred = arm.valid.inference
    assert inferred and inferred.difference == pytest.approx(1 / 3)
    assert inferred.newcombe_95 is None and inferred.mid_p is None
    assert arm.claim == "harm shown"


def test_seeds_that_always_agree_see_no_more_than_one_seed() -> None:
    ends = [["ok"] * 30 + ["fail"] * 10, ["ok"] * 24 + ["fail"] * 16]
    one = compared(dict(zip(("f16/f16", "q8_0/q8_0"), ends, strict=True)))
    three = compared(
        {
            kv: [end for end in some for _ in range(3)]
            for kv, some in zip(("f16/f16", "q8_0/q8_0"), ends, strict=True)
        },
        seeds=[1, 2, 3],
        temperature=0.7,
    )
    seen = [found.arms[0].valid.inference for found in (one, three)]
    assert seen[0] and seen[1] and seen[0].smallest_visible == seen[1].smallest_visible


def test_what_is_matched_is_inconclusive_and_names_what_differs() -> None:
    first = run({"f16/f16": ["ok"] * 50, "q8_0/q8_0": ["ok"] * 50}, margin=0.05)[0]
    other = run({"f16/f16": ["ok"] * 50, "q8_0/q8_0": ["fail"] * 50}, margin=0.05, max_steps=9)[1]
    found = compare(sides([first, other]))
    assert not found.paired and [arm.claim for arm in found.arms] == ["inconclusive"]
    assert "matched, not paired" in found.warnings[0]
    assert "not the same max steps: f16/f16: 30; q8_0/q8_0: 9" in found.warnings


def test_the_users_two_runs(earlier: Path) -> None:  # noqa: F811
    words = ["compare", str(earlier / F16), str(earlier / Q8), "--json"]
    found = Comparison.model_validate_json(CliRunner().invoke(main, words).output)
    (arm,) = found.arms
    every = arm.everything
    assert (every.both, every.only_baseline, every.only_arm, every.neither) == (3, 5, 2, 290)
    inferred = every.inference
    assert inferred and inferred.mid_p == pytest.approx(0.289, abs=5e-4)
    assert inferred.newcombe_95 == pytest.approx((-0.0107, 0.0332), abs=5e-5)
    assert (arm.claim, found.paired) == ("inconclusive", False)
    warnings = " ".join(found.warnings)
    assert "not the same step limit: f16/f16: 100; q8_0/q8_0: 250" in warnings
    assert '"timeout": 7200' in warnings and "matched, not paired" in warnings


def test_bad_names_are_one_sentence(tmp_path: Path) -> None:
    one = run({"f16/f16": ["ok"]})[0]
    one.write(path := tmp_path / file_name(one.row_id))
    for words, says in (
        ([str(path)], "needs two sides"),
        ([str(path), str(path)], "named twice"),
        ([str(path), "nothing"], "no run folder, no record file and no row"),
    ):
        done = CliRunner().invoke(main, ["compare", *words])
        assert done.exit_code == 2 and says in done.output, done.output
