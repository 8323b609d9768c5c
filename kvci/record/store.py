"""Read the records of a repository, and write records without losing stored trials."""

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from kvci.errors import UserError
from kvci.problems import first_problem, remedy
from kvci.record.schema import ADAPTER, Imported, Record, by_run
from kvci.taxonomy import Class

REGRADABLE = (Class.I3, Class.I4)
"""A trial with one of these classes may be graded again and get another class."""


def read(path: Path) -> Record | Imported:
    """Read one record. Raises UserError if the file cannot be read or is not a record."""
    try:
        return parse(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; check the path.") from None


def parse(content: bytes, name: str) -> Record | Imported:
    """Read one record from bytes. Raises UserError with `name` if the bytes are not a record."""
    try:
        return ADAPTER.validate_json(content)
    except ValidationError as error:
        what = remedy(error, "give the file of a record, or restore the original file")
        raise UserError(f"{name} is not a record: {first_problem(error)}.{what}") from None


def read_all(folder: Path) -> list[Record | Imported]:
    """Read all records of ci/results. Raises UserError if a file is not named by its row id."""
    found = []
    for path in sorted(folder.glob("*.json")):
        record = read(path)
        if path.name != file_name(record.row_id):
            raise UserError(
                f"{path} has the record {record.row_id}; rename the file to "
                f"{file_name(record.row_id)}."
            )
        found.append(record)
    return found


def file_name(row_id: str) -> str:
    """Return the file name of a row: its id without leading dots, which would hide the file."""
    return f"{row_id.lstrip('.')}.json"


def write(records: Iterable[Record], folder: Path) -> None:
    """Write records. The arms of a run are written together, because they share one archive.

    The stored records of a run may have trials that the new records lack, because a slower
    publisher writes late. Then all stored records of that run stay.

    Raises UserError if a file has the record of another run. Also raises UserError if the stored
    records have trials that the new records lack, and the new records have trials that the stored
    records lack. In both cases, nothing is written.
    """
    accepted: list[Record] = []
    for arms in by_run(records).values():
        pairs = [(_stored(record, folder), record) for record in arms]
        kept = [old for old, new in pairs if old and _has_more(old, new)]
        if kept and any(_has_more(new, old) for old, new in pairs):
            raise _diverged(kept[0], folder)
        accepted += [] if kept else arms
    for record in accepted:
        record.write(folder / file_name(record.row_id))


def _stored(record: Record, folder: Path) -> Record | None:
    """Return the stored record of this arm, or None.

    Raises UserError if the file has the record of another run.
    """
    path = folder / file_name(record.row_id)
    if not path.exists():
        return None
    stored = read(path)
    if not isinstance(stored, Record) or stored.key != record.key:
        raise UserError(
            f"{path} is the record of another run and is never overwritten; remove that file to "
            "record this run."
        )
    return stored


def _has_more(record: Record, other: Record | None) -> bool:
    """True if the record has trials or gradings that the other record lacks."""
    return bool(trial_keys(record) - (trial_keys(other) if other else set()))


def _diverged(stored: Record, folder: Path) -> UserError:
    remedy = (
        f"Remove the folder of {stored.run_id} on this machine; the next job resumes from the "
        "published evidence."
        if stored.evidence.where
        else "That record names no evidence; publish it first, from the machine that has its run."
    )
    return UserError(
        f"{folder / file_name(stored.row_id)} has trials that this run lacks, and this run has "
        f"trials that the record lacks: two machines continued this run separately. {remedy}"
    )


def trial_keys(record: Record) -> set[tuple[str, int, str, bool]]:
    """Return one key per trial, and a second key if the trial's grading is final.

    Superseded trials have keys, too. A record with more trials, or with more gradings, has more
    keys.
    """
    return {
        (trial.instance, trial.seed, trial.start, final)
        for trial in record.trials
        for final in {False, trial.cls not in REGRADABLE}
    }
