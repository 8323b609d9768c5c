"""Check BENCHMARKS.md: its tables against the records, its other text against the base branch."""

import re
from collections.abc import Sequence

from kvci.errors import UserError
from kvci.record.places import BENCHMARKS, PAGE_MAX_BYTES, PAGE_MAX_LINES
from kvci.record.schema import Imported, Record
from kvci.report.benchmarks import EMPTY, OLDER_FORM, has_tables, is_earlier_form, prose, render
from kvci.review.prose import edited

Records = Sequence[Record | Imported]
ROW_LIKE = re.compile(r"[|<]|```|~~~|!\[|\[\^[^\]]+\]:|(?:^|[\s>])(?:-+:|:-+:?)\s*$")
"""A line outside kvci's tables that contains one of these may look like a row, or hide a row.

The last two are a footnote, and the separator of a table that has one column and no pipe."""
FRONT_MATTER = re.compile(r"\ufeff?---[ \t]*$", re.M)
"""GitHub shows what follows such a first line as a table."""


def check_page(base: bytes | None, head: bytes, records: Records) -> tuple[list[str], list[str]]:
    """Return the problems of the page `head`, and the changes by hand.

    `base` is the page of the base branch, or None if it has no page. `records` are those of the
    head.
    """
    if len(head) > PAGE_MAX_BYTES or head.count(b"\n") + head.count(b"\r") > PAGE_MAX_LINES:
        limit = f"{PAGE_MAX_BYTES >> 20} MiB or {PAGE_MAX_LINES} lines"
        return [f"{BENCHMARKS} is larger than {limit}, so kvci does not read it"], []
    problems = _table_problems(head, records)
    added, removed = _edited_lines(base, head, records)
    if records or _has_tables(base or b"") or _has_tables(head):
        problems += [
            f"{BENCHMARKS} has a line that looks like a row and is not one: {line.strip()[:200]}"
            for line in added
            if ROW_LIKE.search(line)
        ]
    if FRONT_MATTER.match(head.decode(errors="replace")):
        problems.append(f"{BENCHMARKS} begins with ---, so GitHub shows its first lines as a table")
    moved = {line.strip() for line in added} & {line.strip() for line in removed}

    def told(line: str) -> str:
        below = " (below an empty line)" if line.strip() in moved and line[0] == "\n" else ""
        return f"{line.strip()[:200]}{below}"

    edits = [f"{BENCHMARKS}, changed by hand: {told(line)}" for line in added]
    edits += [f"{BENCHMARKS}, removed by hand: {told(line)}" for line in removed]
    return problems, edits


def _table_problems(page: bytes, records: Records) -> list[str]:
    try:
        text = page.decode()
        right = render(text, records)
    except (UserError, UnicodeDecodeError) as error:
        return [f"{BENCHMARKS} cannot be checked against its records: {error}"]
    old, new = text.split("\n"), right.split("\n")
    if old == new:
        return []
    if is_earlier_form(text):
        return [f"{BENCHMARKS} {OLDER_FORM}"]
    known = set(new)
    wrong = next((line for line in old if line not in known), "a line is missing")
    return [f"{BENCHMARKS} does not match the records: {wrong[:300]}"]


def _edited_lines(base: bytes | None, head: bytes, records: Records) -> tuple[list[str], list[str]]:
    """Return the lines outside kvci's tables that the head adds, and those that it removes.

    A line that moves is in both lists. For the comparison, the rows of the head are put into the
    page of the base branch.
    """
    try:
        earlier = EMPTY if base is None else base.decode()
        known, now = prose(render(earlier, records)), prose(head.decode())
    except (UserError, UnicodeDecodeError):
        return [], []  # the check of the tables reports this error
    return edited(known, now)


def _has_tables(page: bytes) -> bool:
    """True if the page has a table of kvci, or if the page cannot be read."""
    try:
        return has_tables(page.decode())
    except (UserError, UnicodeDecodeError):
        return True
