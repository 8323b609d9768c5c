"""Markdown tables in the owner's text: found by their header; all other text stays as it is."""

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kvci.errors import UserError

Cells = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Lines [first, last) are its rows; the header and the separator are the two lines above."""

    first: int
    last: int


def lines_of(text: str) -> list[str]:
    """The lines with their line ends, LF or CRLF."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def cells(line: str) -> Cells:
    """The texts between a line's pipes; a pipe inside a text is escaped as \\|."""
    inner = line.strip().removeprefix("|")
    parts = re.split(r"(?<!\\)\|", inner)
    if parts and not parts[-1].strip():
        parts = parts[:-1]
    return tuple(part.strip().replace("\\|", "|") for part in parts)


def row(texts: Sequence[str]) -> str:
    """One line, without its line end."""
    shown = (" ".join(text.split()).replace("|", "\\|") for text in texts)
    return "| " + " | ".join(shown) + " |"


def table(header: Sequence[str], rows: Iterable[Sequence[str]] = ()) -> list[str]:
    """The table's lines, without line ends."""
    return [row(header), "|---" * len(header) + "|", *map(row, rows)]


def inert(text: str) -> str:
    """Free text made safe for a comment: no HTML, no link, no code, no mention of a user."""
    for sign, shown in (("<", "&lt;"), ("[", "\\["), ("`", "'"), ("@", "@\u200b")):
        text = text.replace(sign, shown)
    return text


def inert_cells(*texts: str) -> Cells:
    return tuple(map(inert, texts))


def find(lines: Sequence[str], header: Cells) -> Table | None:
    """The table with this header, outside code blocks. Raises UserError if there are two."""
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
    """GitHub shows a table only if its separator has as many cells as its header."""
    line = lines[number] if number < len(lines) else ""
    dashes = re.fullmatch(r"\s*\|[\s|:-]+\|?\s*", line)
    return bool(dashes) and len(cells(line)) == len(header)


def replace(lines: list[str], table: Table, rows: Sequence[str]) -> list[str]:
    """The lines with the table's rows replaced; a row without a line end gets the header's."""
    end = line_end(lines[table.first - 2])
    at_end = table.last == len(lines) and not lines[-1].endswith("\n")
    made = [text if text.endswith("\n") else text + end for text in rows]
    if at_end and made:
        made[-1] = made[-1].rstrip("\r\n")
    return [*lines[: table.first], *made, *lines[table.last :]]


def line_end(line: str) -> str:
    return line[len(line.rstrip("\r\n")) :]


def with_header(lines: list[str], table: Table, header: Cells) -> list[str]:
    """The lines with another header of the same length; rows and separator stay."""
    number = table.first - 2
    old = lines[number]
    new = old[: old.index("|")] + row(header) + line_end(old)  # a byte order mark stays
    return [*lines[:number], new, *lines[number + 1 :]]


def wrapped(words: str) -> list[str]:
    """The lines of a paragraph that kvci writes."""
    return textwrap.wrap(words, 100, break_long_words=False, break_on_hyphens=False)


def append(lines: list[str], heading: str, words: str, header: Cells) -> list[str]:
    """The lines and, at the end, an empty table under its heading."""
    end = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    if lines and not lines[-1].endswith("\n"):
        lines = [*lines[:-1], lines[-1] + end]
    added = ("", f"## {heading}", "", *wrapped(words), "", *table(header))
    return [*lines, *(line + end for line in added)]
