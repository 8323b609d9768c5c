"""BENCHMARKS.md from records: the owner's tables, and below them those of kvci."""

from collections import Counter
from collections.abc import Callable, Sequence

from kvci.errors import UserError
from kvci.record import tables
from kvci.record.record import Imported, Record
from kvci.taxonomy import NAMES, Class

LOG = ("Date", "Model", "KV Cache", "Dataset", "Submitted", "Resolved", "Rate", "Errors", "Run ID")
RERUNS = (
    "Date", "Model", "Weights", "KV Cache", "Filter", "Submitted", "Resolved", "Errors", "Run ID",
)  # fmt: skip
INTERIM = "interim, no verdict"
NOT_SHOWN = "not shown"
DEFINITIONS = (
    "Rows that kvci made count trials over instances times seeds. Submitted: trials with a patch "
    "that is not empty. Resolved: trials whose patch lets the failing tests pass and breaks none. "
    "Rate: resolved over all planned trials, infrastructure failures among them. Errors: trials "
    "that infrastructure ended, or whose evaluation it did. Each row is computed from its record "
    "in `ci/results`; until all planned trials are done it says so instead of a rate."
)
EMPTY = "# Results\n\n" + tables.row(LOG) + "\n" + "|---" * len(LOG) + "|\n"
"""A file to begin with."""


def log_row(record: Record) -> tables.Cells:
    rate = f"{record.resolved / record.total:.2%}" if record.complete else INTERIM
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


def classes_row(record: Record) -> tables.Cells:
    count = Counter(trial.cls for trial in record.counted)
    texts = (f"{count[cls]} {NAMES[cls]} ({cls})" for cls in Class if count[cls])
    done = f"{len(record.counted)}/{record.total}"
    aside = len(record.trials) - len(record.counted)
    return (record.row_id, done, ", ".join(texts), str(aside))


def effective_row(record: Record) -> tables.Cells:
    """Where several server starts differ, each value that a log showed."""

    def shown(name: str, form: str = "{}") -> str:
        values = [getattr(effective, name) for effective in record.effective]
        texts = [NOT_SHOWN if value is None else form.format(value) for value in values]
        return ", ".join(dict.fromkeys(texts)) or NOT_SHOWN

    names = ("kv_type", "context_per_slot", "slots", "flash_attention", "kernel_path", "rotation")
    mib = shown("kv_mib", "{:.1f}")
    return (record.row_id, *(shown(n) for n in names), mib, shown("kv_device"), shown("build"))


def speed_row(record: Record) -> tables.Cells:
    """Over all trials of the arm: tokens by the server's own seconds for them."""

    def rate(tokens: int, seconds: float) -> str:
        return f"{tokens / seconds:.1f}" if seconds else NOT_SHOWN

    some = record.counted
    return (
        record.row_id,
        rate(sum(t.prefill_tokens for t in some), sum(t.prefill_s for t in some)),
        rate(sum(t.answer_tokens for t in some), sum(t.decode_s for t in some)),
        str(max((t.depth_tokens for t in some), default=0)),
        f"{sum(t.solve_s for t in some):.0f}",
        record.gpu or "CPU",
    )


OWN: tuple[tuple[str, str, tables.Cells, Callable[[Record], tables.Cells]], ...] = (
    (
        "How the trials ended",
        DEFINITIONS + " Superseded trials are kept in the record and counted nowhere.",
        ("Run ID", "Trials", "Classes", "Superseded"),
        classes_row,
    ),
    (
        "Effective configuration",
        "What the server's own log says that it did.",
        (
            "Run ID", "KV type", "Context per slot", "Slots", "Flash attention", "Kernel path",
            "Rotation", "KV MiB", "KV device", "Build",
        ),
        effective_row,
    ),
    (
        "Speed",
        "Tokens over the server's own seconds for them; all slots' seconds are added up.",
        (
            "Run ID", "Prefill tokens/s", "Decode tokens/s", "Deepest context", "Solving, s",
            "GPU",
        ),
        speed_row,
    ),
)  # fmt: skip


def render(text: str, records: Sequence[Record | Imported]) -> str:
    """The text with its tables as the records give them, all else byte for byte.

    Raises UserError for a row without a record, or a text without the log.
    """
    runs = [record for record in records if isinstance(record, Record)]
    runs.sort(key=lambda record: record.position)
    runs.sort(key=lambda record: record.start, reverse=True)
    imported = [record for record in records if isinstance(record, Imported)]
    logged = {record.row_id: log_row(record) for record in runs}
    logged |= _reported(imported, "log", LOG)
    lines = tables.lines_of(text)
    lines = _fill(lines, LOG, logged, new_on_top=True)
    lines = _fill(lines, RERUNS, _reported(imported, "reruns", RERUNS), new_on_top=False)
    for heading, words, header, make in OWN if runs else ():
        if not tables.find(lines, header):
            lines = _append(lines, heading, words, header)
        table = tables.find(lines, header)
        assert table
        lines = tables.replace(lines, table, [tables.row(make(record)) for record in runs])
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


def _append(lines: list[str], heading: str, words: str, header: tables.Cells) -> list[str]:
    end = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    if lines and not lines[-1].endswith("\n"):
        lines = [*lines[:-1], lines[-1] + end]
    made = ("", f"## {heading}", "", words, "", tables.row(header), "|---" * len(header) + "|")
    return [*lines, *(line + end for line in made)]
