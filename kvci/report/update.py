"""A run directory -> records and rows on disk."""

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

    A demo's records and rows always go into its own folder. Raises UserError before it writes.
    """
    records = build(run)
    if Run(run).demo:
        results, benchmarks = run / "results", run / "BENCHMARKS.md"
    text = _text_or_empty(benchmarks)
    new = {record.row_id for record in records}
    others = [record for record in read_all(results) if record.row_id not in new]
    render(text, [*others, *records])
    write(records, results)
    written = read_all(results)  # `write` keeps records on disk that have more trials
    write_atomic(benchmarks, render(text, written).encode())
    return Recorded(records, benchmarks)


def render_again(results: Path, benchmarks: Path) -> None:
    """Write BENCHMARKS.md from its records. Raises UserError before it writes."""
    write_atomic(benchmarks, render(_text(benchmarks), read_all(results)).encode())


def import_run(
    folder: Path, results: Path, benchmarks: Path, kv: str | None, dataset: str | None
) -> Imported:
    """Make a record and a row of an earlier run of another tool.

    A row that the owner already wrote stays as it is; kvci's reading is added. Raises UserError
    before it writes.
    """
    record = read_run(folder, kv, dataset)
    others = read_all(results)
    for other in others:
        if other.row_id == record.row_id:
            if not isinstance(other, Imported) or other.reported != record.reported:
                raise UserError(
                    f"{results / file_name(other.row_id)} differs from {folder}; a record is "
                    "never overwritten, so remove it to import the folder again."
                )
            record = record.model_copy(update={"table": other.table})
    others = [other for other in others if other.row_id != record.row_id]
    text = _text_or_empty(benchmarks)
    rendered = render(text, [*others, record])
    record.write(results / file_name(record.row_id))
    write_atomic(benchmarks, rendered.encode())
    return record


def first_difference(results: Path, benchmarks: Path) -> str:
    """How BENCHMARKS.md differs from its records, at the first line; empty if it does not."""
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
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8; save it as UTF-8.") from None
