"""BENCHMARKS.md from records: the owner's tables, and below them those of kvci."""

from collections.abc import Sequence

from kvci.errors import UserError
from kvci.plan import INTERIM
from kvci.record.schema import Imported, Record, finished
from kvci.report import earlier, tables
from kvci.report.own import OWN

LOG = ("Date", "Model", "KV Cache", "Dataset", "Submitted", "Resolved", "Rate", "Errors", "Run ID")
RERUNS = (
    "Date", "Model", "Weights", "KV Cache", "Filter", "Submitted", "Resolved", "Errors", "Run ID",
)  # fmt: skip
EMPTY = "\n".join(["# Results", "", *tables.table(LOG), ""])
"""A file to begin with."""


def log_row(record: Record, whole: bool) -> tables.Cells:
    """`whole`: the record's run is finished, in all its arms."""
    rate = f"{record.resolved / record.total:.2%}" if whole else INTERIM
    return tables.inert_cells(
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
    """Of a targeted rerun; what is not done yet is not among the submitted."""
    return tables.inert_cells(
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
    """The text with its tables as the records give them, all else byte for byte; of a text that has
    none of kvci's tables the log stands below it, once there are records.

    Raises UserError for a row without a record, or a table without its header.
    """
    runs = [record for record in records if isinstance(record, Record)]
    runs.sort(key=lambda record: record.position)
    runs.sort(key=lambda record: record.start, reverse=True)
    imported = [record for record in records if isinstance(record, Imported)]
    reruns = [record for record in runs if record.rerun]
    runs = [record for record in runs if not record.rerun]
    whole = finished(runs)
    logged = {record.row_id: log_row(record, record.key in whole) for record in runs}
    logged |= _reported(imported, "log", LOG)
    repeated = _reported(imported, "reruns", RERUNS)
    reruns.sort(key=lambda record: (record.start, record.position))
    repeated |= {record.row_id: rerun_row(record) for record in reruns}
    lines = tables.lines_of(text)
    if not begun(text):
        if not records:
            return text
        names = {(record.row_id,) for record in records}
        if not any(tables.cells(line)[-1:] in names for line in lines):  # else its header is lost
            lines = tables.append(lines, "Results", "", LOG)
    lines = _fill(lines, LOG, logged, new_on_top=True)
    if repeated and not tables.find(lines, RERUNS):
        lines = tables.append(lines, "Targeted reruns", "", RERUNS)
    lines = _fill(lines, RERUNS, repeated, new_on_top=False)
    made = []
    for own in OWN:
        own_rows = [tables.inert_cells(*cells) for cells in own.rows(runs)]
        made.append((own.heading, own.words, own.header, own_rows))
    made.append((earlier.HEADING, earlier.WORDS, earlier.HEADER, earlier.rows(imported)))
    for heading, words, header, rows in made:
        if rows and not tables.find(lines, header):
            lines = tables.append(lines, heading, words, header)
        if table := tables.find(lines, header):
            lines = tables.replace(lines, table, [tables.row(cells) for cells in rows])
    return "".join(lines)


def _reported(
    imported: Sequence[Imported], table: str, header: tables.Cells
) -> dict[str, tables.Cells]:
    found = {}
    for record in imported:
        if record.table == table:
            if tuple(record.reported) != header:
                raise UserError(f"The imported record {record.row_id} has not the log's columns.")
            found[record.row_id] = tuple(record.reported.values())
    return found


def _fill(
    lines: list[str], header: tables.Cells, wanted: dict[str, tables.Cells], new_on_top: bool
) -> list[str]:
    """A row that is right stays as it is; a wrong one is written anew."""
    table = tables.find(lines, header)
    if not table:
        if wanted or header is LOG:
            raise UserError(
                f"BENCHMARKS.md has no table {tables.row(header)}; put the header back."
            )
        return lines
    kept: dict[str, str] = {}
    for line in lines[table.first : table.last]:
        texts = tables.cells(line) or ("",)
        if texts[-1] not in wanted:
            raise UserError(
                f"The row {texts[-1]} of BENCHMARKS.md has no record in ci/results; "
                "import it or take it out."
            )
        if texts[-1] in kept:
            raise UserError(f"The row {texts[-1]} is in BENCHMARKS.md twice; take one out.")
        right = texts == wanted[texts[-1]]
        kept[texts[-1]] = line if right else tables.row(wanted[texts[-1]])
    new = [tables.row(texts) for name, texts in wanted.items() if name not in kept]
    rows = [*new, *kept.values()] if new_on_top else [*kept.values(), *new]
    return tables.replace(lines, table, rows)


def begun(text: str) -> bool:
    """A table of kvci's is there. Raises UserError if one is there twice."""
    return bool(_tables(tables.lines_of(text)))


def _tables(lines: list[str]) -> list[tables.Table]:
    headers = (LOG, RERUNS, *(own.header for own in OWN), earlier.HEADER)
    return [table for header in headers if (table := tables.find(lines, header))]


def prose(text: str) -> list[str]:
    """The lines of a text that are in none of kvci's tables. Raises UserError."""
    lines = tables.lines_of(text)
    ours = {number for table in _tables(lines) for number in range(table.first - 2, table.last)}
    return [line.rstrip() for number, line in enumerate(lines) if number not in ours]
