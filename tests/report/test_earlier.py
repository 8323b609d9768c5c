"""Rows from before kvci: the table states only what their counts show."""

import json
from pathlib import Path

import pytest

from kvci.importer.mini import read_run
from kvci.record.schema import Imported
from kvci.record.store import read_all
from kvci.report.benchmarks import LOG
from kvci.report.earlier import HEADER, rows
from tests.conftest import ROOT
from tests.importer.test_mini import F16, earlier  # noqa: F401  (a fixture)


def row(kv: str, resolved: int, errors: int = 0, total: str = "9/50", **other: str) -> Imported:
    reported = dict.fromkeys(LOG, "x") | {
        "KV Cache": kv,
        "Resolved": str(resolved),
        "Errors": str(errors),
        "Submitted": total,
    }
    return Imported(
        row_id=f"{kv.replace('/', '-')}-{resolved}", table="log", reported=reported | other
    )


def cells(*imported: Imported) -> list[dict[str, str]]:
    """Return the cells of the rows, in the given order."""
    made = [dict(zip(HEADER, found, strict=True)) for found in rows(imported)]
    found = {shown["Run ID"]: shown for shown in made}
    return [found[one.row_id] for one in imported]


def test_seven_imported_rows_show_no_difference() -> None:
    records = [r for r in read_all(ROOT / "ci" / "results") if isinstance(r, Imported)]
    assert len(records) == len(rows(records)) == 7
    found = {shown["Run ID"]: shown for shown in cells(*records)}
    q8 = found["swe-lite-qwen3-4b-instruct-2507-kv-q8-q8-20260127_125632"]
    assert q8["Resolved"] == "5 of 300, 1.7%" and q8["95 %"] == "0.7% to 3.8%"
    assert q8["Fewer than f16/f16"] == "+1.00 (-1.54 to +3.68)"
    assert q8["Minimum detectable effect"] == "2.4 of f16/f16's 2.7 points"
    assert q8["Reading"] == "no difference from f16/f16 of 2026-01-31 shown"
    assert found["...20260205_192813"]["Reading"] == "a targeted rerun"


def test_difference_of_counts_is_no_claim() -> None:
    base, worse = cells(row("f16/f16", 40), row("q4_0/q4_0", 5))
    assert base["Reading"] == "a baseline" and base["Had the errors resolved"] == "80.0%"
    assert worse["Reading"] == "differs from f16/f16 of x; the reason is unknown"
    assert cells(row("f16/f16", 0), row("q4_0/q4_0", 0))[1]["Minimum detectable effect"] == (
        "not even a total loss"
    )


def test_other_model_is_not_a_baseline() -> None:
    (_, other) = cells(row("f16/f16", 40), row("q4_0/q4_0", 5, Model="another"))
    assert other["Reading"] == "no baseline" and other["Fewer than f16/f16"] == ""


def test_nearest_baseline_is_used_and_named() -> None:
    shown = cells(
        row("f16/f16", 40, Date="2026-01-01"),
        row("f16/f16", 30, Date="2026-03-01"),
        row("q4_0/q4_0", 29, Date="2026-02-20"),
    )[2]
    assert shown["Fewer than f16/f16"].startswith("+2.00") and "2026-03-01" in shown["Reading"]
    lone = (row("f16/f16", 40, Model="not shown"), row("q4_0/q4_0", 5, Model="not shown"))
    assert cells(*lone)[1]["Reading"] == "no baseline"


@pytest.mark.parametrize("total", ["9", "9/0", "some/50", "9/3"])
def test_impossible_counts_are_reported(total: str) -> None:
    (shown,) = cells(row("f16/f16", 5, total=total))
    assert shown["Reading"] == "its counts cannot be read"


def test_imported_folder_shows_its_trials(earlier: Path) -> None:  # noqa: F811
    (shown,) = cells(read_run(earlier / F16))
    assert "A6" in shown["Trials as kvci reads them"] and shown["Resolved"] == "8 of 300, 2.7%"


def test_rows_follow_the_owners_tables() -> None:
    records = [r for r in read_all(ROOT / "ci" / "results") if isinstance(r, Imported)]
    names = [found[0] for found in rows(records)]
    text = (ROOT / "BENCHMARKS.md").read_text()
    assert names == sorted(names, key=text.index)


def test_unfinished_imported_run_has_no_rate(tmp_path: Path) -> None:
    (tmp_path / "preds.json").write_text('{"a__a-1": {"model_patch": "diff --git a/x b/x\\n"}}')
    report = {"resolved_ids": ["a__a-1"], "total_instances": 300, "submitted_instances": 1}
    (tmp_path / "report.json").write_text(json.dumps(report | {"error_ids": []}))
    record = read_run(tmp_path, kv="f16/f16")
    assert record.reported["Rate"] == "interim"
    (shown,) = cells(record)
    assert shown["Reading"] == "interim, no claim: 1 of 300 trials"
    assert not any(shown[name] for name in HEADER[1:6])
