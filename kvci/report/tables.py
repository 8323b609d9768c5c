"""Find and change Markdown tables in the owner's text. All other text stays as it is."""

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kvci.errors import UserError
from kvci.text import markdown

Cells = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table of a text. Its rows are the lines from `first` up to `last`, without `last`.

    The header and the separator are the two lines above the rows.
    """

    first: int
    last: int


def lines_of(text: str) -> list[str]:
    """Return the lines of a text with their line ends, LF or CRLF."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def cells(line: str) -> Cells:
    """Return the texts between a line's pipes. A pipe inside a text is escaped as \\|."""
    inner = line.strip().removeprefix("|")
    parts = re.split(r"(?<!\\)\|", inner)
    if parts and not parts[-1].strip():
        parts = parts[:-1]
    return tuple(part.strip().replace("\\|", "|") for part in parts)


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
    """Return the table with this header, or None. Tables in code blocks do not count.

    Raises UserError if the text has the table twice.
    """
    found: list[Table] = []
    fence = ""
    for number, line in enumerate(lines):
        text = line.strip().removeprefix("\ufeff")
        mark = re.match(r"(`{3,}|~{3,})", text)
        if fence:
            if mark and mark[1].startswith(fence):
                fence = ""
        elif mark:
            fence = mark[1]
        elif (
            text.startswith("|") and cells(text) == header and _separates(lines, number + 1, header)
        ):
            last = number + 2
            while last < len(lines) and lines[last].lstrip().startswith("|"):
                last += 1
            found.append(Table(number + 2, last))
    if len(found) > 1:
        raise UserError(f"The file has the table {row(header)} twice; keep one of them.")
    return found[0] if found else None


def _separates(lines: Sequence[str], number: int, header: Cells) -> bool:
    """True if the line is a separator with as many cells as the header; GitHub needs both."""
    line = lines[number] if number < len(lines) else ""
    dashes = re.fullmatch(r"\s*\|[\s|:-]+\|?\s*", line)
    return bool(dashes) and len(cells(line)) == len(header)


def replace(lines: list[str], table: Table, rows: Sequence[str]) -> list[str]:
    """Return the lines with new rows in the table.

    A row without a line end gets the line end of the header.
    """
    end = line_end(lines[table.first - 2])
    at_end = table.last == len(lines) and not lines[-1].endswith("\n")
    made = [text if text.endswith("\n") else text + end for text in rows]
    if at_end and made:
        made[-1] = made[-1].rstrip("\r\n")
    return [*lines[: table.first], *made, *lines[table.last :]]


def line_end(line: str) -> str:
    return line[len(line.rstrip("\r\n")) :]


def with_header(lines: list[str], table: Table, header: Cells) -> list[str]:
    """Return the lines with another header of the same length; rows and separator stay."""
    number = table.first - 2
    old = lines[number]
    new = old[: old.index("|")] + row(header) + line_end(old)  # a byte order mark stays
    return [*lines[:number], new, *lines[number + 1 :]]


def wrapped(words: str) -> list[str]:
    """Return the lines of a paragraph that kvci writes."""
    return textwrap.wrap(words, 100, break_long_words=False, break_on_hyphens=False)


def append(lines: list[str], heading: str, words: str, header: Cells) -> list[str]:
    """Return the lines with an empty table under its heading added at the end."""
    end = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    if lines and not lines[-1].endswith("\n"):
        lines = [*lines[:-1], lines[-1] + end]
    added = ("", f"## {heading}", "", *wrapped(words), "", *table(header))
    return [*lines, *(line + end for line in added)]
