"""From a run directory to records and rows."""

from dataclasses import dataclass
from pathlib import Path

from kvci.errors import UserError
from kvci.files import write_atomic
from kvci.importer.mini import read_run
from kvci.record.from_run import build
from kvci.record.schema import Imported, Record
from kvci.record.store import file_name, read_all, write
from kvci.report.benchmarks import EMPTY, render
from kvci.rundir.parts import Run


@dataclass(frozen=True)
class Recorded:
    """What was written where."""

    records: list[Record]
    benchmarks: Path


def record_run(run: Path, results: Path, benchmarks: Path) -> Recorded:
    """Write the records of a run and its rows. Raises UserError with nothing written.

    A demo's go into its own folder, whatever else was asked.
    """
    records = build(run)
    if Run(run).demo:
        results, benchmarks = run / "results", run / "BENCHMARKS.md"
    text = _begun(benchmarks)
    mine = {record.row_id for record in records}
    others = [record for record in read_all(results) if record.row_id not in mine]
    render(text, [*others, *records])
    write(records, results)
    write_atomic(benchmarks, render(text, read_all(results)).encode())  # newer ones have stayed
    return Recorded(records, benchmarks)


def render_again(results: Path, benchmarks: Path) -> None:
    """Write BENCHMARKS.md as its records give it. Raises UserError with nothing written."""
    write_atomic(benchmarks, render(_text(benchmarks), read_all(results)).encode())


def import_run(
    folder: Path, results: Path, benchmarks: Path, kv: str | None, dataset: str | None
) -> Imported:
    """An earlier run of another tool becomes a record and a row.

    A row that its owner wrote already stays as it is, and gets kvci's reading. Raises UserError
    with nothing written.
    """
    record = read_run(folder, kv, dataset)
    others = read_all(results)
    for there in others:
        if there.row_id == record.row_id:
            if not isinstance(there, Imported) or there.reported != record.reported:
                raise UserError(
                    f"{results / file_name(there.row_id)} says something else than {folder}; "
                    "it is never overwritten."
                )
            record = record.model_copy(update={"table": there.table})
    others = [there for there in others if there.row_id != record.row_id]
    text = _begun(benchmarks)
    rendered = render(text, [*others, record])
    record.write(results / file_name(record.row_id))
    write_atomic(benchmarks, rendered.encode())
    return record


def first_difference(results: Path, benchmarks: Path) -> str:
    """The first line of BENCHMARKS.md that is not what the records give; empty if there is none."""
    text = _text(benchmarks)
    rendered = render(text, read_all(results))
    if rendered == text:
        return ""
    old, new = text.split("\n"), rendered.split("\n")
    both = zip(old + [""] * len(new), new + [""] * len(old), strict=True)
    return next(
        f"{benchmarks} says\n{was}\nand its records\n{now}" for was, now in both if was != now
    )


def _begun(path: Path) -> str:
    return _text(path) if path.exists() else EMPTY


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8; save it as such.") from None
