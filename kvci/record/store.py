"""Read the records of a repository, and write records without losing trials of stored ones."""

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from kvci.errors import UserError
from kvci.files import first_problem
from kvci.record.schema import ADAPTER, Imported, Record, by_run
from kvci.taxonomy import Class

REGRADABLE = (Class.I3, Class.I4)
"""A trial of these classes may be graded again, and then has another class."""


def read(path: Path) -> Record | Imported:
    """Read one record. Raises UserError naming the file."""
    try:
        return parse(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None


def parse(content: bytes, name: str) -> Record | Imported:
    """Read one record from bytes; `name` is its name in the UserError that this raises."""
    try:
        return ADAPTER.validate_json(content)
    except ValidationError as error:
        raise UserError(f"{name} is not a record: {first_problem(error)}.") from None


def read_all(folder: Path) -> list[Record | Imported]:
    """Read all records of ci/results. Raises UserError if a file is not named by its row id."""
    found = []
    for path in sorted(folder.glob("*.json")):
        record = read(path)
        if path.name != file_name(record.row_id):
            raise UserError(f"{path} has the record {record.row_id}; rename the file or the row.")
        found.append(record)
    return found


def file_name(row_id: str) -> str:
    """Return the file of a row. The leading dots of a shortened id would hide it, so they go."""
    return f"{row_id.lstrip('.')}.json"


def write(records: Iterable[Record], folder: Path) -> None:
    """Write records; the arms of a run are written together, because they share one archive.

    If the stored records of a run have trials that the new ones lack, because a slower publisher
    comes late, all stored records of that run stay.

    Raises UserError, before anything is written, if a file has the record of another run, or if
    both the stored and the new records have trials that the other side lacks.
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
    """Return the stored record of this arm, if any. Raises UserError if it is of another run."""
    path = folder / file_name(record.row_id)
    if not path.exists():
        return None
    stored = read(path)
    if not isinstance(stored, Record) or stored.key != record.key:
        raise UserError(f"{path} is the record of another run; it is never overwritten.")
    return stored


def _has_more(record: Record, other: Record | None) -> bool:
    """True if the record has trials or gradings that the other one lacks."""
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
    """Return a key per trial, superseded ones included, and a second one if its grading is final.

    So a record with more trials, or with more gradings, has more keys.
    """
    return {
        (trial.instance, trial.seed, trial.start, final)
        for trial in record.trials
        for final in {False, trial.cls not in REGRADABLE}
    }
