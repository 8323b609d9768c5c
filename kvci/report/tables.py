"""Find and change the tables of Markdown that GitHub shows. All other text stays as it is."""

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from markdown_it import MarkdownIt

from kvci.errors import UserError
from kvci.text import markdown

Cells = tuple[str, ...]
BLOCKS = MarkdownIt("commonmark").enable("table").disable(["inline", "text_join"])
"""A parser of Markdown as GitHub reads it, for blocks only: kvci reads the source of cells."""

ENDING = {"fence", "html_block", "hr"}
"""Blocks that end the text above them."""


@dataclass(frozen=True)
class Table:
    """A table of a text. Its rows are the lines from `first` up to `last`, without `last`.

    The header and the separator are the two lines above the rows. `rows` has the source of the
    cells of each row. A table is nested if it is in a quote or a list. It is apart if the block
    right above it is a heading, a rule, code or HTML, and so cannot continue in the table.
    """

    first: int
    last: int
    header: Cells
    rows: tuple[Cells, ...]
    nested: bool
    apart: bool


def lines_of(text: str) -> list[str]:
    """Return the lines of a text with their line ends, which are those of Markdown."""
    return re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text)


@lru_cache(maxsize=8)
def _tables(text: str) -> tuple[Table, ...]:
    """Return the tables that GitHub shows. It shows none in code, HTML or comments."""
    found: list[Table] = []
    rows: list[list[str]] = []
    ended = 0
    for token in BLOCKS.parse(text.removeprefix("\ufeff")):
        if token.type == "table_open":
            rows, (start, end), level = [], token.map or [0, 0], token.level
        elif token.map and (token.type in ENDING or token.markup.startswith("#")):
            ended = token.map[1]
        elif token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and rows:
            rows[-1].append(token.content)
        elif token.type == "table_close":
            header, *others = map(tuple, rows)
            found.append(Table(start + 2, end, header, tuple(others), level > 0, ended == start))
            rows = []
    return tuple(found)


def row(texts: Sequence[str]) -> str:
    """Return one line of a table, without its line end. Each cell reads as written."""
    return "| " + " | ".join(map(_cell, texts)) + " |"


def _cell(text: str) -> str:
    """Return the source of a cell. GitHub reads a pipe after two backslashes as a cell's end."""
    line = " ".join(markdown(text).split())
    return re.sub(r"(\\?)\|", lambda pipe: f"{pipe[1] and pipe[1] + ' '}\\|", line)


def table(header: Sequence[str], rows: Iterable[Sequence[str]] = ()) -> list[str]:
    """Return the lines of a table, without line ends."""
    return [row(header), "|---" * len(header) + "|", *map(row, rows)]


def inert_cells(*texts: str) -> Cells:
    """Return the Markdown of each cell."""
    return tuple(map(markdown, texts))


def find(lines: Sequence[str], header: Cells) -> Table | None:
    """Return the table with this header, or None.

    Raises UserError if the text has the table twice, or in a quote or a list, or if GitHub shows
    text below the table as its row, or may show the table as part of the text above it.
    """
    found = [table for table in _tables("".join(lines)) if table.header == header]
    if len(found) > 1:
        raise UserError(f"The file has the table {row(header)} twice; keep one of them.")
    for table in found:
        if table.nested:
            raise UserError(
                f"The table {row(header)} is in a quote or a list; move it out, or delete it."
            )
        above = lines[table.first - 3] if table.first > 2 else ""
        if not (table.apart or is_blank(above)):
            raise UserError(
                f"GitHub may show the table below the line '{above.strip()[:200]}' as a part of "
                "that text, for example of a footnote; put an empty line above the table."
            )
        for line in lines[table.first : table.last]:
            if "|" not in line:
                raise UserError(
                    f"GitHub shows the line '{line.strip()[:200]}' as a row of the table above it; "
                    "put an empty line above this line."
                )
    return found[0] if found else None


def replace(lines: list[str], table: Table, rows: Sequence[str]) -> list[str]:
    """Return the lines with new rows in the table.

    A row without a line end gets the line end of the header. The last line of the text keeps having
    none.
    """
    end = line_end(lines[table.first - 2])
    made = [text if line_end(text) else text + end for text in (lines[table.first - 1], *rows)]
    if table.last == len(lines) and not line_end(lines[-1]):
        made[-1] = made[-1].rstrip("\r\n")
    return [*lines[: table.first - 1], *made, *lines[table.last :]]


def is_blank(line: str) -> bool:
    """True if Markdown takes the line for empty; a no-break space is text."""
    return not line.strip(" \t\r\n")


def line_end(line: str) -> str:
    return line[len(line.rstrip("\r\n")) :]


def with_header(lines: list[str], table: Table, header: Cells) -> list[str]:
    """Return the lines with another header of the same length; rows and separator stay."""
    number = table.first - 2
    old = lines[number]
    mark = "\ufeff" * old.startswith("\ufeff")
    new = mark + row(header) + line_end(old)
    return [*lines[:number], new, *lines[number + 1 :]]


def wrapped(words: str) -> list[str]:
    """Return the lines of a paragraph that kvci writes."""
    return textwrap.wrap(words, 100, break_long_words=False, break_on_hyphens=False)


def append(lines: list[str], heading: str, words: str, header: Cells) -> list[str]:
    """Return the lines with an empty table under its heading added at the end.

    Raises UserError if GitHub would not show the table there.
    """
    end = line_end(lines[0]) or "\n" if lines else "\n"
    if lines and not line_end(lines[-1]):
        lines = [*lines[:-1], lines[-1] + end]
    added = ("", f"## {heading}", "", *wrapped(words), "", *table(header))
    made = [*lines, *(line + end for line in added)]
    if not find(made, header):
        raise UserError(
            "GitHub would not show a table at the end of the file, because a code block or a "
            "comment is still open there; close it."
        )
    return made
