"""Every output shows counts before a run's end, and no claim, p value or interval."""

import io
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from click.testing import CliRunner

from kvci.cli import main
from kvci.console import Terminal
from kvci.publish.pull_request import Target, _body
from kvci.record.schema import Record
from kvci.record.store import file_name
from kvci.report.benchmarks import EMPTY, render
from kvci.report.show import record_text
from kvci.run.progress import Progress
from kvci.run.summary import doubt_lines, infrastructure_lines, summarize, table
from kvci.stats.decide import Claim
from kvci.taxonomy import DOUBTFUL
from tests.compare.made import run

CLAIM = re.compile(
    "|".join(map(re.escape, Claim))
    + r"|non-inferior|\bloses\b|\bgains\b|no difference"
    + r"|\d to [+-]\d|\(\d+%[ )]"
    + r"|below 0\.001|\b0\.\d{3}\b|[+-]\d+\.\d\d\b|\d points|pass@k|ICC"
    + r"|\"(p_harm|mid_p|p_holm|interval\w*|newcombe_95|repository\w*|minimum\w*)\": [^n]"
)
"""Matches a claim, a difference, p, an effect, an interval, or the agreement of seeds; in JSON,
too."""
ARMS = {"f16/f16": ["ok"] * 40, "f16/f16 -ub 32": ["ok"] * 40, "q8_0/q8_0": ["fail"] * 40}


def some(missing: int) -> list[Record]:
    """Return a run in which `missing` trials of the last arm are not done."""
    last = {"q8_0/q8_0": ARMS["q8_0/q8_0"][: 40 - missing]}
    return run(ARMS | last, planned=40, margin=0.05)


def compared(shown: str) -> Callable[[list[Record], Path], str]:
    def surface(records: list[Record], folder: Path) -> str:
        for record in records:
            record.write(folder / file_name(record.row_id))
        names = [record.row_id for record in records]
        words = ["compare", *names, "--results", str(folder), "--format", shown]
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, done.output
        return done.output

    return surface


def console(shown: Iterable[object]) -> str:
    out = io.StringIO()
    for one in shown:
        Terminal(file=out, width=200).print(one)
    return out.getvalue()


def summary(records: list[Record], _: Path) -> str:
    outcomes = [trial for record in records for trial in record.counted]
    made = summarize("run", {record.arm: 40 for record in records}, list(outcomes))
    return console([table(made), *infrastructure_lines(list(outcomes))]) + made.model_dump_json()


def test_run_lists_doubtful_trials() -> None:
    (record, _) = run({"f16/f16": ["ok", "doubtful"], "q8_0/q8_0": ["ok", "ok"]})
    (line,) = doubt_lines(list(record.counted))
    name = record.planned[1]
    assert line == (f"{DOUBTFUL}: f16-f16 {name} seed 0: results outside the markers (OK resolved)")


def live(records: list[Record], _: Path) -> str:
    outcomes = [trial for record in records for trial in record.counted]
    arms = [record.arm for record in records]
    shown = Progress(Terminal(file=io.StringIO()), dict.fromkeys(arms, 40), 1, outcomes)
    return console([shown.view(), shown.line()])


SURFACES: dict[str, Callable[[list[Record], Path], str]] = {
    "compare, text": compared("text"),
    "compare, Markdown": compared("markdown"),
    "compare, JSON": compared("json"),
    "BENCHMARKS.md": lambda records, _: render(EMPTY, records),
    "pull request": lambda records, _: _body(records, Target("o/r", "main", "b", "")),
    "record": lambda records, _: "\n".join(map(record_text, records)),
    "summary": summary,
    "live view": live,
}
DESCRIBE = {"record", "summary", "live view"}
"""They count and never claim."""


@pytest.mark.parametrize("name", SURFACES)
def test_unfinished_run_shows_only_counts(name: str, tmp_path: Path) -> None:
    shown = SURFACES[name](some(missing=1), tmp_path)
    assert not CLAIM.search(shown), CLAIM.search(shown)
    assert "39" in shown
    interim = json.loads(shown)["complete"] is False if "JSON" in name else "interim" in shown
    assert interim


@pytest.mark.parametrize("name", [name for name in SURFACES if name not in DESCRIBE])
def test_left_out_arms_withhold_claims(name: str, tmp_path: Path) -> None:
    shown = SURFACES[name](some(missing=20)[:2], tmp_path)
    assert not CLAIM.search(shown) and "no claim" in shown


@pytest.mark.parametrize("name", SURFACES)
def test_finished_run_shows_claims(name: str, tmp_path: Path) -> None:
    shown = SURFACES[name](some(missing=0), tmp_path)
    assert bool(CLAIM.search(shown)) is (name not in DESCRIBE)
    assert "harm shown" in shown or name in DESCRIBE
    assert "interim" not in shown or name == "live view"
