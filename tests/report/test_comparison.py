"""A comparison as text has lines to quote, one table, and details if they are asked for."""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from kvci.cli import main
from kvci.compare.compare import compare
from kvci.compare.findings import Comparison
from kvci.console import Terminal
from kvci.record.store import file_name
from kvci.report.claims import claim_text, headlines
from kvci.report.comparison import columns, markdown, text
from kvci.report.details import sections
from tests.compare.made import compared, run, sides

CONTROL = "f16/f16 -ub 32"
THREE = {
    "f16/f16": ["ok"] * 20,
    CONTROL: ["ok"] * 20,
    "q8_0/q8_0": ["ok"] * 20,
    "q4_0/q4_0": ["ok"] * 5 + ["empty"] * 15,
}


def pair(base: list[str], arm: list[str], **asked: Any) -> Comparison:
    return compared({"f16/f16": base, "q8_0/q8_0": arm}, **asked)


def shown(found: Comparison, width: int = 80, details: bool = False) -> str:
    out = io.StringIO()
    text(found, Terminal(file=out, width=width), details)
    return out.getvalue()


def test_headlines_quote_claim_and_interval() -> None:
    assert headlines(compared(THREE, margin=0.25)) == [
        "f16/f16 -ub 32 (control): 0 of 20 pairs differ",
        "q8_0/q8_0: no difference seen (90% interval -14 to +14): non-inferior within 25 points",
        "q4_0/q4_0 loses 75 points (90% interval 52 to 88): harm shown",
    ]


OK, FAIL = ["ok"], ["fail"]


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (
            pair(OK * 200, OK * 199 + FAIL, margin=0.05),
            "q8_0/q8_0 loses 0.5 points (90% interval -1.1 to +2.4): non-inferior within 5 points",
        ),
        (
            pair(OK * 400, OK * 390 + FAIL * 10, margin=0.05),
            "q8_0/q8_0 loses 2.5 points (90% interval 1.5 to 4.2): harm shown, smaller than the "
            "margin of 5 points",
        ),
        (
            pair(FAIL * 20, OK * 8 + FAIL * 12),
            "q8_0/q8_0 gains 40 points (90% interval 21 to 59): inconclusive",
        ),
        (
            pair(FAIL * 20, OK + FAIL * 19),
            "q8_0/q8_0 gains 5 points (90% interval -10 to +21): inconclusive",
        ),
        (
            pair(OK * 100 + FAIL * 100, OK * 99 + FAIL * 101, margin=0.025),
            "q8_0/q8_0 loses 0.5 points (90% interval -1.1 to +2.4): "
            "non-inferior within 2.5 points",
        ),
        (
            pair(OK * 2500, OK * 2499 + FAIL),
            "q8_0/q8_0 loses 0.04 points (90% interval -0.09 to +0.20): inconclusive",
        ),
        (
            pair(OK * 20, OK * 5 + ["empty"] * 15, primary="patched"),
            "q8_0/q8_0 loses 75 points in patched (90% interval 52 to 88): harm shown",
        ),
        (
            pair(OK * 5, ["infra"] * 5),
            "q8_0/q8_0: no valid pair, no claim",
        ),
        (
            pair(OK * 3, OK, planned=3),
            "4 of 6 trials done; interim, no claim",
        ),
    ],
)
def test_headline_of_each_case(found: Comparison, line: str) -> None:
    assert headlines(found) == [line]


def test_without_a_pair_nothing_is_explained_that_is_not_shown() -> None:
    found = pair(OK * 5, ["infra"] * 5)
    for out in (markdown(found), shown(found)):
        assert "1.000" not in out and "one-sided p value" not in out


def test_same_arm_of_two_runs_is_named_by_row() -> None:
    found = pair(OK * 5, OK * 5)
    (arm,) = found.arms
    other = arm.model_copy(update={"name": "other-row"})
    lines = headlines(found.model_copy(update={"arms": (arm, other)}))
    assert [line.partition(":")[0] for line in lines] == [arm.name, "other-row"]


def test_interim_arms_share_one_headline() -> None:
    found = compared(THREE | {"q4_0/q4_0": []}, planned=20)
    assert headlines(found) == ["60 of 80 trials done; interim, no claim"]


def test_missing_arm_is_part_of_a_run() -> None:
    found = compare(sides(run(THREE))[:3])
    assert headlines(found) == ["part of a run, no claim"]


def test_text_is_headlines_warnings_one_table() -> None:
    found = compared(THREE, margin=0.25)
    lines = shown(found).split("\n")
    assert lines[0] == headlines(found)[0]
    assert lines[5].startswith("Warning: the control arm f16/f16 -ub 32 gives the same answers")
    table = [line.split("  ")[0] for line in lines[8:18] if not line.startswith(" ")]
    assert table == list(columns(found))
    assert "Pairs\n" not in shown(found) and "Endpoints" not in shown(found)
    assert all(f"\n{one.heading}\n" in shown(found, details=True) for one in sections(found))


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("details", [False, True])
def test_text_fits_the_terminal(width: int, details: bool) -> None:
    found = compared(THREE | {"iq4_nl/iq4_nl": ["fail"] * 20}, margin=0.25)
    lines = shown(found, width, details).split("\n")
    assert max(map(len, lines)) <= width
    assert "\x1b" not in "".join(lines)
    table = "\n".join(lines)
    for word in ("non-inferior", "-14.02 to +14.02", "iq4_nl/iq4_nl", "below 0.001"):
        assert word in table


def test_arms_that_do_not_fit_follow_below() -> None:
    found = compared(THREE | {"q5_0/q5_0": ["ok"] * 20}, margin=0.25)
    heads = [line for line in shown(found).split("\n") if line.startswith("Arm  ")]
    assert [head.split()[-1] for head in heads] == ["q4_0/q4_0", "q5_0/q5_0"]
    (head,) = [line for line in shown(found, 200).split("\n") if line.startswith("Arm  ")]
    assert head.split()[-1] == "q5_0/q5_0"


def test_interim_text_has_no_empty_lines_of_inference() -> None:
    text_ = shown(pair(OK * 3, OK, planned=3))
    assert "Baseline resolved  1/1" in text_ and "Pairs" in text_
    assert "interval" not in text_.partition("--details")[0] and "p (harm" not in text_


def test_details_are_an_option_of_the_command(tmp_path: Any) -> None:
    records = run(THREE)
    for record in records:
        record.write(tmp_path / file_name(record.row_id))
    words = ["compare", *(one.row_id for one in records), "--results", str(tmp_path)]
    short, long = (CliRunner().invoke(main, [*words, *more]) for more in ((), ("--details",)))
    assert short.exit_code == long.exit_code == 0
    assert "Endpoints" not in short.output and "Endpoints" in long.output


def test_markdown_has_all_sections() -> None:
    found = compared(THREE, margin=0.25)
    page = markdown(found)
    assert page.startswith("## Claims\n\n- f16/f16 -ub 32 (control): 0 of 20 pairs differ\n")
    assert f"| {' | '.join(columns(found))} |" in page
    for section in sections(found):
        assert f"## {section.heading}\n" in page


def test_claim_cell_of_the_control() -> None:
    found = compared(THREE)
    assert claim_text(found, found.arms[0]) == "control: 0 of 20 pairs differ"


def test_one_repository_is_not_estimable() -> None:
    found = compare(
        [
            replace(side, trials={(f"a__b-{n}", 0): trial for n, trial in enumerate(trials)})
            for side in sides(run({"f16/f16": ["ok"] * 9, "q8_0/q8_0": ["ok"] * 9}))
            if (trials := list(side.trials.values()))
        ]
    )
    (section,) = [one for one in sections(found) if one.heading == "By repository"]
    assert section.rows[0] == ("q8_0/q8_0, valid", *["not estimable"] * 3)


FORMS: list[Callable[[Comparison], str]] = [markdown, lambda found: shown(found, 200, True)]


@pytest.mark.parametrize("form", FORMS)
def test_classes_are_named_and_exploratory_endpoints_marked(
    form: Callable[[Comparison], str],
) -> None:
    found = pair(["ok"] * 40, ["empty"] * 20 + ["infra"] * 20)
    page = form(found)
    assert "resolved (primary)" in page and "are exploratory" in page
    assert "arm I3 grading" in page and "deepest context, tokens" in page
    assert "20 OK resolved -> A6 empty patch." in page
    (arm,) = found.arms
    assert all(line.exploratory is (line.name != "resolved") for line in arm.endpoints)
    assert all(line.exploratory for line in arm.measures)


def test_first_forty_flips_are_listed() -> None:
    found = pair(["ok"] * 60 + ["fail"], ["fail"] * 60 + ["empty"])
    (arm,) = found.arms
    assert len(arm.flips) == 60
    (section,) = [one for one in sections(found) if one.heading == "Flips"]
    assert len(section.rows) == 40
    words = "The table has the first 40 of 60 flips; the JSON has all flips."
    assert words in section.words
