"""kvci's own tables: the paired comparison of a run."""

from kvci.record.schema import Record
from kvci.report.own import comparison_rows
from tests.compare.made import run
from tests.record.made import record


def test_each_arm_is_compared_with_its_baseline() -> None:
    records = run(
        {
            "f16/f16": ["ok"] * 100 + ["fail"] * 100,
            "f16/f16 -ub 32": ["ok"] * 99 + ["fail"] * 101,
            "q8_0/q8_0": ["ok"] * 99 + ["fail"] * 101,
            "q4_0/q4_0": ["ok"] * 80 + ["empty"] * 20 + ["fail"] * 100,
        },
        margin=0.05,
    )
    control, q8, q4 = comparison_rows(records)
    assert control[0] == records[1].row_id
    assert control[-1] == "control: 1 of 200 pairs differ" and control[10] == ""
    assert q8[3:9] == ("99", "1", "0", "100", "0", "+0.50")
    assert q8[-1] == "non-inferior within 5 points"
    assert q4[1:9] == ("f16/f16", "resolved", "80", "20", "0", "100", "0", "+10.00")
    assert "(90%)" in q4[9] and q4[10] == "below 0.001" and "points" in q4[11]
    assert " to " in q4[12] and q4[-1] == "harm shown"


def test_warning_precedes_the_claim() -> None:
    ends = {
        "f16/f16": ["ok"] * 40,
        "f16/f16 -ub 32": ["fail"] * 20 + ["ok"] * 20,
        "q8_0/q8_0": ["fail"] * 40,
    }
    for cells in comparison_rows(run(ends)):
        assert cells[-1].startswith("Warning: the control arm f16/f16 -ub 32 differs")


def test_missing_baseline_compares_nothing() -> None:
    records = run({"f16/f16": ["ok"], "q8_0/q8_0": ["ok"], "q4_0/q4_0": ["fail"]})
    assert [cells[-1] for cells in comparison_rows(records[1:])] == [
        "no record of its baseline"
    ] * 2
    assert comparison_rows(records[:1]) == []
    other: list[Record] = [record(0), record(1, run_id="another")]
    assert comparison_rows(other) == []
