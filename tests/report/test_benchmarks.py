"""BENCHMARKS.md: rows come from records; the owner's text is kept byte for byte."""

from pathlib import Path

import pytest

from kvci.compare.named import compare_named
from kvci.errors import UserError
from kvci.plan import INTERIM
from kvci.record.schema import Imported, Record
from kvci.record.store import file_name, read_all
from kvci.report import tables
from kvci.report.benchmarks import EMPTY, LOG, RERUNS, log_row, render
from kvci.report.update import first_difference
from kvci.spec import Rerun
from tests.conftest import ROOT
from tests.record.made import SPEC, record

OLD = Imported(row_id="old", table="log", reported={c: c.lower() for c in LOG} | {"Run ID": "old"})
LINE = tables.row(tuple(OLD.reported.values()))
AGAIN = Imported(
    row_id="...12", table="reruns", reported=dict.fromkeys(RERUNS, "x") | {"Run ID": "...12"}
)


def rows(text: str, header: tables.Cells = LOG) -> list[str]:
    lines = tables.lines_of(text)
    table = tables.find(lines, header)
    assert table
    return [cells[-1] for cells in table.rows]


def test_repository_file_equals_its_records() -> None:
    assert first_difference(ROOT / "ci" / "results", ROOT / "BENCHMARKS.md") == ""
    imported = [r for r in read_all(ROOT / "ci" / "results") if isinstance(r, Imported)]
    assert [r.table for r in imported].count("log") == 3
    assert [r.table for r in imported].count("reruns") == 4
    text = (ROOT / "BENCHMARKS.md").read_text()
    assert "| 159/300 | 8 | 2.67% | 55 |" in text and "| ...20260208_101832 |" in text


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_prose_is_kept_byte_for_byte(end: str, last: bool) -> None:
    head = f"\ufeffWords  {end}\t{end}```{end}{tables.row(LOG)}{end}|---|{end}```{end}"
    table = f"| Date|Model |{' | '.join(LOG[2:])}|{end}|-{'|-' * 8}|{end}{LINE}  {end}"
    tail = "" if last else f"{end}More | words{end}{end}  end"
    before = head + (table.rstrip() if last else table) + tail
    assert render(before, [OLD]).startswith(before)
    after = render(before, [OLD, record()])
    assert after.startswith(head + table[: table.index("|-")])
    assert (f"{LINE}  {end}{tail}" if tail else LINE) in after
    assert rows(after) == [record().row_id, "old"]
    assert render(after, [OLD, record()]) == after
    assert after.count("\n") == after.count(end)


def rerun(position: int) -> Record:
    """Return a targeted rerun of the run that `record` makes."""
    spec = SPEC.model_copy(update={"rerun": Rerun(of="calibration-small", filter="I1,I3 repo")})
    start = "2026-04-01T00:00:00Z"
    content = "1" * 64, "2" * 64
    return record(
        position, start=start, spec=spec.identity(*content), spec_sha256=spec.hash(*content)
    )


def test_targeted_rerun_has_its_own_table(tmp_path: Path) -> None:
    again = [rerun(0), rerun(1)]
    text = render(EMPTY, [record(0), record(1), *again])
    assert rows(text) == [record(0).row_id, record(1).row_id]
    assert rows(text, RERUNS) == [one.row_id for one in again]
    assert "| I1,I3 repo of calibration-small | 1/2 | 1 | 1 |" in text
    assert text.index("Targeted reruns") < text.index(again[0].row_id)
    assert text.count(again[1].row_id) == 1
    assert render(text, [record(0), record(1), *again]) == text
    for one in again:
        one.write(tmp_path / file_name(one.row_id))
    with pytest.raises(UserError, match="cannot be compared"):
        compare_named([one.row_id for one in again], tmp_path)


def test_new_rows_come_first_baseline_before_arms() -> None:
    earlier = [record(0), record(1)]
    text = render(EMPTY, earlier)
    later = [record(p, start="2026-03-01T00:00:00Z") for p in (1, 0)]
    text = render(text, [*earlier, *later])
    assert rows(text) == [r.row_id for r in (later[1], later[0], *earlier)]


def test_new_reruns_come_last() -> None:
    first = AGAIN.model_copy(update={"row_id": "...11"})
    first = first.model_copy(update={"reported": AGAIN.reported | {"Run ID": "...11"}})
    text = EMPTY + "\n" + tables.row(RERUNS) + "\n" + "|---" * 9 + "|\n"
    text = render(text, [first])
    assert rows(render(text, [AGAIN, first]), RERUNS) == ["...11", "...12"]


def test_row_changed_by_hand_is_restored() -> None:
    both = [record(0), record(1)]
    text = render(EMPTY, both)
    changed = text.replace("| 1 | 50.00% |", "| 2 | 100.00% |")
    assert changed != text and render(changed, both) == text


def test_row_without_record_is_an_error() -> None:
    with pytest.raises(UserError, match=r"old of BENCHMARKS\.md has no record"):
        render(EMPTY + LINE + "\n", [])
    with pytest.raises(UserError, match="twice"):
        render(EMPTY + (LINE + "\n") * 2, [OLD])


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_first_record_adds_the_log(end: str, last: bool) -> None:
    own = end.join(["# Ours", "", "| Engine | ms |", "|---|---|", "| v8 | 3 |"]) + end * (not last)
    assert render(own, []) == own
    text = render(own, [record()])
    assert text.startswith(own) and rows(text) == [record().row_id]
    assert text.count("\n") == text.count(end)
    assert render(text, [record()]) == text


def test_missing_or_doubled_log_is_an_error() -> None:
    text, header = render(EMPTY, [record(0), record(1)]), tables.row(LOG)
    with pytest.raises(UserError, match="has no table"):
        render(text.replace(header, ""), [record(0), record(1)])
    with pytest.raises(UserError, match="has no table"):
        render(f"{LINE}\n", [OLD])
    with pytest.raises(UserError, match=r"has the table .* twice"):
        render(EMPTY + "\n" + EMPTY, [])


def test_unfinished_run_has_no_rate() -> None:
    part = record(trials=1)
    assert log_row(part, whole=False)[4:8] == ("1/2", "1", INTERIM, "0")
    assert INTERIM in render(EMPTY, [part])


def test_unfinished_arm_withholds_all_rates() -> None:
    assert INTERIM in render(EMPTY, [record(0), record(1, trials=1)])
    assert render(EMPTY, [record(0), record(1, trials=1)]).count("50.00%") == 0
    assert render(EMPTY, [record(0), record(1)]).count("50.00%") == 2


def test_own_tables_are_derived_from_records() -> None:
    assert "Effective" not in render(EMPTY + LINE + "\n", [OLD])
    text = render(EMPTY, [record()])
    assert text.count("## Effective configuration") == 1
    assert "| q8_0/q8_0 | 4096 | 1 | on | cpu | on | 12.8 | CPU | b1 |" in text
    assert "200.0 | 20.0 | 130 |" in text and "| 247.8 | 12.8 | 21.8 | CPU |" in text
    assert "1 resolved (OK), 1 failing tests still fail (A11a)" not in text  # the table's order
    assert "1 grading (I3), 1 resolved (OK)" in text
    broken = text.replace("12.8", "6.4")
    assert render(broken, [record()]) == text


def test_pipe_in_a_cell_is_escaped() -> None:
    lines = [f"{line}\n" for line in tables.table(("A", "B"), [("a|b", "c")])]
    table = tables.find(lines, ("A", "B"))
    assert table and table.rows == (("`a|b`", "c"),)


def test_superseded_trials_are_not_counted() -> None:
    whole = record()
    old = [t.model_copy(update={"superseded": True}) for t in whole.trials]
    more = Record.model_validate(whole.model_dump() | {"trials": [*whole.trials, *old]})
    assert log_row(more, True) == log_row(whole, True)


def test_check_names_the_wrong_row(tmp_path: Path) -> None:
    file = tmp_path / "BENCHMARKS.md"
    both = [record(0), record(1)]
    file.write_text(render(EMPTY, both).replace("50.00%", "51.00%"))
    for one in both:
        one.write(tmp_path / f"{one.row_id}.json")
    assert "51.00%" in first_difference(tmp_path, file)


SHOWN_NOWHERE = {
    "code": f"```\n{tables.row(LOG)}\n{'|---' * 9}|\n```\n",
    "code, longer fence": f"````md\n```\n{tables.row(LOG)}\n{'|---' * 9}|\n```\n````\n",
    "fence with words": f"```\n```python\n{tables.row(LOG)}\n{'|---' * 9}|\n```\n",
    "indented code": f"    {tables.row(LOG)}\n    {'|---' * 9}|\n",
    "comment": f"<!--\n{tables.row(LOG)}\n{'|---' * 9}|\n-->\n",
    "HTML": f"<pre>\n{tables.row(LOG)}\n{'|---' * 9}|\n</pre>\n",
    "no separator": f"{tables.row(LOG)}\n",
    "short separator": f"{tables.row(LOG)}\n{'|---' * 8}|\n",
}


@pytest.mark.parametrize("name", SHOWN_NOWHERE)
def test_only_the_table_that_github_shows_counts(name: str) -> None:
    words = f"# Bench\n\nAn example:\n\n{SHOWN_NOWHERE[name]}\n"
    text = f"{words}{tables.row(LOG)}\n{'|---' * 9}|\n\nEnd.\n"
    after = render(text, [OLD])
    assert after.startswith(f"{words}{tables.row(LOG)}\n{'|---' * 9}|\n{LINE}\n\nEnd.\n")
    alone = render(words, [OLD])
    assert alone.startswith(words) and rows(alone) == ["old"]


def test_inline_code_is_no_fence() -> None:
    words = "Start it with\n\n```llama-server -ctk q8_0 -ctv q8_0```\n\nthen look.\n\n"
    assert rows(render(f"{words}{tables.row(LOG)}\n{'|---' * 9}|\n", [OLD])) == ["old"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_row_follows_a_table_without_final_line_end(end: str) -> None:
    text = f"# Bench{end}{end}{tables.row(LOG)}{end}{'|---' * 9}|"
    after = render(text, [OLD])
    assert after.startswith(f"{text}{end}{LINE}") and rows(after) == ["old"]
    assert render(after, [OLD]) == after


@pytest.mark.parametrize("line", ["2026-01-01", "Words", "===", "[a]: b", "   x"])
@pytest.mark.parametrize("table", ["log", "own"])
def test_line_right_below_a_table_is_its_row(line: str, table: str) -> None:
    """GitHub shows it as a row. In a table of kvci, it would be lost with the old rows."""
    text = render(EMPTY, [record()])
    last = next(one for one in text.split("\n") if one.startswith("| ") and record().row_id in one)
    if table == "own":
        last = text.rstrip("\n").split("\n")[-1]
    with pytest.raises(UserError, match="put an empty line above this line"):
        render(text.replace(last, f"{last}\n{line}"), [record()])


def test_row_without_outer_pipes_is_a_row() -> None:
    text = EMPTY + LINE
    with pytest.raises(UserError, match=r"The row 9 of BENCHMARKS\.md has no record"):
        render(f"{text}\n1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9\n", [OLD])
    with pytest.raises(UserError, match=r"The row a \| b of BENCHMARKS\.md has no record"):
        render(f"{text}\na | b\n", [OLD])


@pytest.mark.parametrize("mark", ["> ", "- ", "1. "])
def test_table_in_a_quote_or_list_is_an_error(mark: str) -> None:
    inner = " " * len(mark) if mark != "> " else mark
    nested = f"{mark}{tables.row(LOG)}\n{inner}{'|---' * 9}|\n"
    with pytest.raises(UserError, match="is in a quote or a list"):
        render(f"# Bench\n\n{nested}", [])
    with pytest.raises(UserError, match="twice"):
        render(f"{EMPTY}\n{nested}", [])


@pytest.mark.parametrize("last", ["```\ncode", "<!-- a", "<pre>", "~~~"])
def test_table_is_not_added_where_github_hides_it(last: str) -> None:
    with pytest.raises(UserError, match="is still open there; close it"):
        render(f"# Bench\n\n{last}\n", [record()])
