"""Write the comment on a pull request, which tells people the result of the review."""

from collections.abc import Iterator, Sequence

from kvci.compare.compare import compare_run
from kvci.compare.findings import Comparison
from kvci.record.schema import Record, by_run
from kvci.report.claims import claim_text, without_claim
from kvci.report.comparison import markdown as comparison
from kvci.report.plot import run_bars
from kvci.report.tables import table
from kvci.review.rows import Review
from kvci.text import html, markdown

HEADER = ("New row", "Trials", "Resolved", "Claim")
CHARS_MAX, LINES_MAX = 500, 40
"""The maximum length of a line that quotes the pull request, and of a list of such lines."""


def comment(found: Review, accepted: bool) -> str:
    """Return the comment's text: the result first, then problems, rows, notes and comparisons.

    It also says what was recomputed, and what was not.
    """
    lines = ["**The rows match their evidence.**"]
    if found.unattested:
        lines = ["**Nothing contradicts these rows, but not all of their evidence was checked.**"]
    if found.problems:
        lines = ["**Do not merge these rows. They have problems:**", ""]
        lines += _listed(found.problems)
    if found.unattested:
        state = "accepted by a maintainer" if accepted else "a maintainer's label may accept it"
        lines += ["", f"Unattested ({state}):", ""]
        lines += _listed(found.unattested)
    runs = [(arms, compare_run(arms)) for arms in by_run(found.new).values()]
    if runs:
        cells = (row for arms, made in runs for row in _cells(arms, made))
        lines += ["", *table(HEADER, cells)]
    for head, told in _facts(found, [made for _, made in runs if made]):
        lines += ["", head, "", *_listed(told)]
    for arms, made in runs:
        if made:
            name = html(arms[0].run_id)
            lines += ["", f"<details><summary>{name}, compared</summary>", ""]
            lines += [comparison(made), run_bars(arms), "</details>"]
    return "\n".join(lines)


def whole(found: Review) -> list[str]:
    """Return all lines of the comment's lists, which the comment may cut, for the job's log."""
    runs = (compare_run(arms) for arms in by_run(found.new).values())
    facts = _facts(found, [made for made in runs if made])
    told = [line for head, lines in facts for line in (head, *lines)]
    return [*found.problems, *found.unattested, *told]


def _facts(found: Review, made: Sequence[Comparison]) -> list[tuple[str, Sequence[str]]]:
    """Return the lists below the rows that are not empty, each with its first line."""
    warnings = [warning for one in made for warning in one.warnings]
    lists: list[tuple[str, Sequence[str]]] = [
        ("Look at:", [*warnings, *found.notes]),
        ("Changes by hand:", found.edits),
        ("This review recomputed:", found.recomputed),
        ("On the runner's word alone rests:", found.on_word),
    ]
    return [(head, lines) for head, lines in lists if lines]


def _listed(lines: Sequence[str]) -> list[str]:
    shown = [f"- {markdown(line[:CHARS_MAX])}" for line in lines[:LINES_MAX]]
    more = len(lines) - len(shown)
    return [*shown, f"- and {more} more; see the job's log"] if more else shown


def _cells(arms: Sequence[Record], made: Comparison | None) -> Iterator[tuple[str, ...]]:
    words = {arm.name: claim_text(made, arm) for arm in made.arms} if made else {}
    for record in arms:
        yield (
            record.row_id,
            f"{len(record.counted)}/{record.total}",
            str(record.resolved),
            words.get(record.row_id) or without_claim(record),
        )
