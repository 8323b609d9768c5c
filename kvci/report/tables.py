"""Markdown tables in a text that is its owner's: found by their header, all else left alone."""

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kvci.errors import UserError

Cells = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Lines [first, last) are its rows; the header and the separator stand above them."""

    first: int
    last: int


def lines_of(text: str) -> list[str]:
    """With their ends, whichever they are."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def cells(line: str) -> Cells:
    """The texts between a line's pipes; a pipe in a text is written \\|."""
    inner = line.strip().removeprefix("|")
    parts = re.split(r"(?<!\\)\|", inner)
    if parts and not parts[-1].strip():
        parts = parts[:-1]
    return tuple(part.strip().replace("\\|", "|") for part in parts)


def row(texts: Sequence[str]) -> str:
    """One line, without its end."""
    shown = (" ".join(text.split()).replace("|", "\\|") for text in texts)
    return "| " + " | ".join(shown) + " |"


def table(header: Sequence[str], rows: Iterable[Sequence[str]] = ()) -> list[str]:
    """Its lines, without their ends."""
    return [row(header), "|---" * len(header) + "|", *map(row, rows)]


def inert(text: str) -> str:
    """Free text in a comment: no HTML, no link, no code, and nobody is mentioned by it."""
    for sign, shown in (("<", "&lt;"), ("[", "\\["), ("`", "'"), ("@", "@\u200b")):
        text = text.replace(sign, shown)
    return text


def inert_cells(*texts: str) -> Cells:
    return tuple(map(inert, texts))


def find(lines: Sequence[str], header: Cells) -> Table | None:
    """The table with this header, outside of code blocks. Raises UserError if there are two."""
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
        raise UserError(f"The table {row(header)} is there twice; keep one of them.")
    return found[0] if found else None


def _separates(lines: Sequence[str], number: int, header: Cells) -> bool:
    """With another number of cells it is no table that GitHub shows as one."""
    line = lines[number] if number < len(lines) else ""
    dashes = re.fullmatch(r"\s*\|[\s|:-]+\|?\s*", line)
    return bool(dashes) and len(cells(line)) == len(header)


def replace(lines: list[str], table: Table, rows: Sequence[str]) -> list[str]:
    """The lines with the table's rows replaced; a row without a line end gets the header's."""
    above = lines[table.first - 2]
    end = above[len(above.rstrip("\r\n")) :]
    at_end = table.last == len(lines) and not lines[-1].endswith("\n")
    made = [text if text.endswith("\n") else text + end for text in rows]
    if at_end and made:
        made[-1] = made[-1].rstrip("\r\n")
    return [*lines[: table.first], *made, *lines[table.last :]]


def append(lines: list[str], heading: str, words: str, header: Cells) -> list[str]:
    """The lines and, below them, an empty table under its heading."""
    end = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    if lines and not lines[-1].endswith("\n"):
        lines = [*lines[:-1], lines[-1] + end]
    wrapped = textwrap.wrap(words, 100, break_long_words=False, break_on_hyphens=False)
    made = ("", f"## {heading}", "", *wrapped, "", *table(header))
    return [*lines, *(line + end for line in made)]
