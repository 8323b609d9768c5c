"""The records of a repository: read, and written without losing what is there."""

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from kvci.errors import UserError
from kvci.files import first_problem
from kvci.record.schema import ADAPTER, Imported, Record, by_run
from kvci.taxonomy import Class

WAITING = (Class.I3, Class.I4)
"""Such a trial may be graded again, and then has another class."""


def read(path: Path) -> Record | Imported:
    """Raises UserError naming the file."""
    try:
        return parse(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None


def parse(content: bytes, name: str) -> Record | Imported:
    """Raises UserError with this name of it."""
    try:
        return ADAPTER.validate_json(content)
    except ValidationError as error:
        raise UserError(f"{name} is not a record: {first_problem(error)}.") from None


def read_all(folder: Path) -> list[Record | Imported]:
    """The records of ci/results. Raises UserError if a file's name is not its record's row id."""
    found = []
    for path in sorted(folder.glob("*.json")):
        record = read(path)
        if path.name != file_name(record.row_id):
            raise UserError(f"{path} holds the record {record.row_id}; rename one or the other.")
        found.append(record)
    return found


def file_name(row_id: str) -> str:
    """Without the dots of an id that its owner shortened, which would hide the file."""
    return f"{row_id.lstrip('.')}.json"


def write(records: Iterable[Record], folder: Path) -> None:
    """The arms of a run go together, for their evidence is one: where records are there with trials
    that these lack, because a slower publisher comes late, all of them stay.

    Raises UserError, before anything is written, if another run's record is in the way, or each has
    trials that the other lacks.
    """
    some: list[Record] = []
    for arms in by_run(records).values():
        there = [_there(record, folder) for record in arms]
        known = [keys(one) if one else set() for one in there]
        mine = [keys(record) for record in arms]
        behind = [o for o, had, has in zip(there, known, mine, strict=True) if o and had - has]
        if behind and any(has - had for had, has in zip(known, mine, strict=True)):
            raise _apart(behind[0], folder)
        some += [] if behind else arms
    for record in some:
        record.write(folder / file_name(record.row_id))


def _there(record: Record, folder: Path) -> Record | None:
    path = folder / file_name(record.row_id)
    if not path.exists():
        return None
    there = read(path)
    if not isinstance(there, Record) or _of_run(there) != _of_run(record):
        raise UserError(f"{path} is the record of another run; it is never overwritten.")
    return there


def _apart(there: Record, folder: Path) -> UserError:
    remedy = (
        f"Remove {there.run_id} from this machine's runs; the next job takes up what was published."
        if there.evidence.where
        else "What is there names no evidence; publish it from the machine that has it first."
    )
    return UserError(
        f"{folder / file_name(there.row_id)} has trials that this run lacks, and this run has "
        f"others: two machines went on apart. {remedy}"
    )


def keys(record: Record) -> set[tuple[str, int, str, bool]]:
    """Its trials, superseded ones too; and once more those that wait for no grading."""
    return {
        (trial.instance, trial.seed, trial.start, graded)
        for trial in record.trials
        for graded in {False, trial.cls not in WAITING}
    }


def _of_run(record: Record) -> tuple[str, str, str]:
    return record.run_id, record.start, record.spec_sha256
