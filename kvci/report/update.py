"""Write the records and rows of a run to disk."""

from dataclasses import dataclass
from pathlib import Path

from kvci.errors import UserError
from kvci.files import write_atomic
from kvci.importer.mini import read_run
from kvci.record.from_run import build
from kvci.record.schema import Imported, Record
from kvci.record.store import file_name, read_all, write
from kvci.report.benchmarks import EMPTY, OLDER_FORM, is_earlier_form, render
from kvci.rundir.parts import Run


@dataclass(frozen=True)
class Recorded:
    """The records that were written, and the file with their rows."""

    records: list[Record]
    benchmarks: Path


def record_run(run: Path, results: Path, benchmarks: Path) -> Recorded:
    """Write the records of a run and its rows.

    A demo's records and rows always go into the demo's own folder. Raises UserError if the run
    gives no records, or if BENCHMARKS.md does not fit its records; then nothing is written.
    """
    records = build(run)
    if Run(run).demo:
        results, benchmarks = run / "results", run / "BENCHMARKS.md"
    text = _text_or_empty(benchmarks)
    new = {record.row_id for record in records}
    others = [record for record in read_all(results) if record.row_id not in new]
    render(text, [*others, *records])
    write(records, results)
    written = read_all(results)  # `write` keeps stored records that have more trials
    write_atomic(benchmarks, render(text, written).encode())
    return Recorded(records, benchmarks)


def render_again(results: Path, benchmarks: Path) -> None:
    """Write BENCHMARKS.md from its records.

    Raises UserError if BENCHMARKS.md does not fit its records; then nothing is written.
    """
    write_atomic(benchmarks, render(_text(benchmarks), read_all(results)).encode())


def import_run(
    folder: Path, results: Path, benchmarks: Path, kv: str | None, dataset: str | None
) -> Imported:
    """Write a record and a row of an earlier run of another tool.

    A row that the owner already wrote stays as it is, and its record gets the values that kvci read
    from the run. Raises UserError if the folder is not such a run, if it differs from its stored
    record, or if BENCHMARKS.md does not fit its records; then nothing is written.
    """
    record = read_run(folder, kv, dataset)
    others = read_all(results)
    for other in others:
        if other.row_id == record.row_id:
            if not isinstance(other, Imported) or other.reported != record.reported:
                raise UserError(
                    f"{results / file_name(other.row_id)} differs from {folder} and is never "
                    "overwritten; remove that record to import the folder again."
                )
            record = record.model_copy(update={"table": other.table})
    others = [other for other in others if other.row_id != record.row_id]
    text = _text_or_empty(benchmarks)
    rendered = render(text, [*others, record])
    record.write(results / file_name(record.row_id))
    write_atomic(benchmarks, rendered.encode())
    return record


def first_difference(results: Path, benchmarks: Path) -> str:
    """Return the first difference between BENCHMARKS.md and its records; empty if there is none."""
    text = _text(benchmarks)
    if is_earlier_form(text):
        return f"{benchmarks} {OLDER_FORM}."
    rendered = render(text, read_all(results))
    if rendered == text:
        return ""
    old, new = text.split("\n"), rendered.split("\n")
    both = zip(old + [""] * len(new), new + [""] * len(old), strict=True)
    return next(
        f"{benchmarks} has the line\n{was}\nbut its records give\n{now}"
        for was, now in both
        if was != now
    )


def _text_or_empty(path: Path) -> str:
    return _text(path) if path.exists() else EMPTY


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; check the path.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8; save it as UTF-8.") from None
