"""Make BENCHMARKS.md from records: the owner's tables, and kvci's own tables below them."""

from collections.abc import Sequence
from itertools import pairwise

from kvci.errors import UserError
from kvci.plan import INTERIM
from kvci.record.schema import Imported, Record, finished
from kvci.report import earlier, tables
from kvci.report.migrate import migrated
from kvci.report.own import OWN_TABLES

LOG = ("Date", "Model", "KV Cache", "Dataset", "Submitted", "Resolved", "Rate", "Errors", "Run ID")
RERUNS = (
    "Date", "Model", "Weights", "KV Cache", "Filter", "Submitted", "Resolved", "Errors", "Run ID",
)  # fmt: skip
EMPTY = "\n".join(["# Results", "", *tables.table(LOG), ""])
"""The text of a new BENCHMARKS.md."""
OLDER_FORM = "has an older form, from an earlier kvci; kvci record migrates it"


def log_row(record: Record, whole: bool) -> tables.Cells:
    """Return the row of a record in the log.

    `whole` is true if all arms of the record's run are finished.
    """
    rate = f"{record.resolved / record.total:.2%}" if whole else INTERIM
    return (
        record.start[:10],
        record.model,
        record.kv,
        record.dataset,
        f"{record.submitted}/{record.total}",
        str(record.resolved),
        rate,
        str(record.errors),
        record.row_id,
    )


def rerun_row(record: Record) -> tables.Cells:
    """Return the row of a targeted rerun. Only trials that are done can count as submitted."""
    return (
        record.start[:10],
        record.spec["model"]["name"],
        record.spec["model"]["weights"],
        record.kv,
        record.rerun,
        f"{record.submitted}/{record.total}",
        str(record.resolved),
        str(record.errors),
        record.row_id,
    )


def render(text: str, records: Sequence[Record | Imported]) -> str:
    """Return the text with its tables derived from the records.

    All other text is kept byte for byte. Tables of an earlier kvci are migrated. If there are
    records and the text has none of kvci's tables, the log is added at its end. Raises UserError if
    a row has no record, or if a table has lost its header.
    """
    runs = [record for record in records if isinstance(record, Record)]
    runs.sort(key=lambda record: record.position)
    runs.sort(key=lambda record: record.start, reverse=True)
    imported = [record for record in records if isinstance(record, Imported)]
    reruns = [record for record in runs if record.rerun]
    runs = [record for record in runs if not record.rerun]
    whole = finished(runs)
    logged = {record.row_id: [tables.inert_cells(*log_row(record, record.key in whole))]
              for record in runs}  # fmt: skip
    logged |= _reported(imported, "log", LOG)
    repeated = _reported(imported, "reruns", RERUNS)
    reruns.sort(key=lambda record: (record.start, record.position))
    repeated |= {record.row_id: [tables.inert_cells(*rerun_row(record))] for record in reruns}
    lines = _current_lines(text)
    if not _tables(lines):
        if not records:
            return text
        ends = {line.strip().removesuffix("|").rpartition("|")[2].strip() for line in lines}
        if not ends & {record.row_id for record in records}:  # else the log lost its header
            lines = tables.append(lines, "Results", "", LOG)
    if repeated and not tables.find(lines, RERUNS):
        lines = tables.append(lines, "Targeted reruns", "", RERUNS)
    derived = [(own.heading, own.words, own.header, own.rows(runs)) for own in OWN_TABLES]
    derived.append((earlier.HEADING, earlier.WORDS, earlier.HEADER, earlier.rows(imported)))
    for heading, words, header, rows in derived:
        if rows and not tables.find(lines, header):
            lines = tables.append(lines, heading, words, header)
    filled = [_fill(lines, LOG, logged, new_on_top=True)]
    filled.append(_fill(lines, RERUNS, repeated, new_on_top=False))
    for _, _, header, rows in derived:
        filled.append((tables.find(lines, header), [tables.row(cells) for cells in rows]))
    shown = [(table, rows) for table, rows in filled if table]
    for table, made in sorted(shown, key=lambda one: one[0].first, reverse=True):
        lines = tables.replace(lines, table, made)
    return "".join(lines)


def _reported(
    imported: Sequence[Imported], table: str, header: tables.Cells
) -> dict[str, list[tables.Cells]]:
    """Return row id -> the cells that kvci writes, and the owner's cells, which stay."""
    found = {}
    for record in imported:
        if record.table == table:
            if tuple(record.reported) != header:
                raise UserError(
                    f"The imported record {record.row_id} has other columns than its table; "
                    "import the run again."
                )
            owned = tuple(record.reported.values())
            found[record.row_id] = [tables.inert_cells(*owned), owned]
    return found


def _fill(
    lines: list[str],
    header: tables.Cells,
    wanted: dict[str, list[tables.Cells]],
    new_on_top: bool,
) -> tuple[tables.Table | None, list[str]]:
    """Return the table and its lines with the wanted rows; a row that is right stays as it is.

    `wanted` is row id -> the cells of a right row; kvci writes the first of them.
    """
    table = tables.find(lines, header)
    if not table:
        if wanted or header is LOG:
            raise UserError(
                f"BENCHMARKS.md has no table {tables.row(header)}; put the header back."
            )
        return None, []
    kept: dict[str, str] = {}
    for line, texts in zip(lines[table.first : table.last], table.rows, strict=True):
        if texts[-1] not in wanted:
            raise UserError(
                f"The row {texts[-1] or line.strip()[:200]} of BENCHMARKS.md has no record in "
                "ci/results; import its run, or remove the row."
            )
        if texts[-1] in kept:
            raise UserError(f"BENCHMARKS.md has the row {texts[-1]} twice; keep one of them.")
        right = texts in wanted[texts[-1]]
        kept[texts[-1]] = line if right else _line(wanted[texts[-1]])
    new = [_line(right) for name, right in wanted.items() if name not in kept]
    return table, [*new, *kept.values()] if new_on_top else [*kept.values(), *new]


def _line(right: list[tables.Cells]) -> str:
    return tables.row(right[0])


def is_earlier_form(text: str) -> bool:
    """True if a table has the header or the words of an earlier kvci.

    Raises UserError if the text has a table twice.
    """
    return _current_lines(text) != tables.lines_of(text)


def has_tables(text: str) -> bool:
    """True if the text has one of kvci's tables. Raises UserError if it has one twice."""
    return bool(_tables(_current_lines(text)))


def _current_lines(text: str) -> list[str]:
    return migrated(tables.lines_of(text))


def _tables(lines: list[str]) -> list[tables.Table]:
    headers = (LOG, RERUNS, *(own.header for own in OWN_TABLES), earlier.HEADER)
    return [table for header in headers if (table := tables.find(lines, header))]


def prose(text: str) -> list[str]:
    """Return the lines of a text outside kvci's tables, after migration, without empty lines.

    A line below an empty line starts with a line feed: an empty line ends a footnote or a table, so
    with and without it, the line may mean something else. Raises UserError if the text has a table
    twice.
    """
    lines = _current_lines(text)
    ours = {number for table in _tables(lines) for number in range(table.first - 2, table.last)}
    others = [line.rstrip(" \t\r\n") for number, line in enumerate(lines) if number not in ours]
    return [line if above else f"\n{line}" for above, line in pairwise(["", *others]) if line]
