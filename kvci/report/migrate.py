"""Give BENCHMARKS.md of an earlier kvci today's table headers and words; other text stays."""

from dataclasses import dataclass

from kvci.errors import UserError
from kvci.report import earlier, own, tables


@dataclass(frozen=True)
class Form:
    """A table's header, and the words that kvci wrote above the table."""

    header: tables.Cells
    words: str


FORMS_0_1_0 = {
    own.COMPARISON.heading: Form(
        (
            "Run ID", "Baseline", "Endpoint", "Both", "Only baseline", "Only arm", "Neither",
            "Dropped", "Difference", "Interval", "p (harm, Holm)", "Smallest visible",
            "By repository", "Verdict",
        ),
        "Each arm against the baseline of its run, over pairs of trials that are valid in both. "
        "Difference: the baseline's rate less the arm's, in percentage points, with its interval. "
        "Smallest visible: the harm that these pairs would have shown in 80 % of the cases. By "
        "repository: the 95 % interval with repositories as clusters. What a "
        "verdict means, and how often it is wrong, stands in `kvci/RULES.md`; `kvci compare` shows "
        "all of it.",
    ),
    own.CLASSES.heading: Form(
        own.CLASSES.header,
        "Rows that kvci made count trials over instances times seeds. Submitted: trials with a "
        "patch that is not empty. Resolved: trials whose patch lets the failing tests pass and "
        "breaks none. Rate: resolved over all planned trials, infrastructure failures among them. "
        "Errors: trials that infrastructure ended, or whose evaluation it did. Each row is "
        "computed from its record in `ci/results`; until all planned trials are done it says so "
        "instead of a rate. Superseded trials are kept in the record and counted nowhere.",
    ),
    own.CONFIGURATION.heading: Form(
        own.CONFIGURATION.header, "What the server's own log says that it did."
    ),
    own.COST.heading: Form(
        own.COST.header,
        "Tokens over the server's own seconds for them; all slots' seconds are added up. Memory is "
        "what the server's log says that it reserved, on the GPU where there is one.",
    ),
    earlier.HEADING: Form(
        (
            "Run ID", "Resolved", "95 %", "Had the errors resolved", "Fewer than f16/f16",
            "Smallest visible", "Reading", "Trials as kvci reads them",
        ),
        "Resolved of all, with the 95 % interval (Wilson). Had the errors resolved: the rate if "
        "every instance whose evaluation failed had been resolved. Fewer than f16/f16: in "
        "percentage points, as if both runs had been of instances of their own (95 %, Newcombe), "
        "since counts do not say which instances were resolved. Smallest visible: the loss that so "
        "many instances show in 80 % of the cases, one-sided at 5 %. Runs of other days and "
        "settings are matched at best, so none of it is a verdict; targeted reruns are compared "
        "with nothing.",
    ),
}  # fmt: skip
"""Heading -> the form of version 0.1.0."""
FORMS = {table.heading: Form(table.header, table.words) for table in own.OWN_TABLES} | {
    earlier.HEADING: Form(earlier.HEADER, earlier.WORDS)
}
"""Heading -> today's form."""


def migrated(lines: list[str]) -> list[str]:
    """Return the lines with today's headers and words in place of kvci's earlier ones.

    Words that the owner changed stay. Raises UserError if the file has a table twice.
    """
    for heading, old in FORMS_0_1_0.items():
        new = FORMS[heading]
        for header in dict.fromkeys((old.header, new.header)):
            if table := tables.find(lines, header):
                lines = _with_words(lines, table, old.words, new.words)
        if old.header != new.header and (table := tables.find(lines, old.header)):
            if tables.find(lines, new.header):
                raise UserError(
                    f"BENCHMARKS.md has the table '{heading}' twice, in today's form and in an "
                    "older form; delete the older one. kvci writes all its rows again from the "
                    "records."
                )
            lines = tables.with_header(lines, table, new.header)
    return lines


def _with_words(lines: list[str], table: tables.Table, old: str, new: str) -> list[str]:
    """Return the lines with the new words in place of the old words.

    Nothing changes if the paragraph above the table does not have exactly the old words. A
    formatter may have wrapped them at another width; a paragraph in one line stays in one line.
    """
    last = first = table.first - 3  # an empty line is between the paragraph and the table
    while first > 0 and lines[first - 1].strip():
        first -= 1
    paragraph = lines[first:last]
    if first < 1 or lines[last].strip() or " ".join("".join(paragraph).split()) != old:
        return lines
    end = tables.line_end(lines[last])
    made = [new] if len(paragraph) == 1 else tables.wrapped(new)
    return [*lines[:first], *(line + end for line in made), *lines[last:]]
