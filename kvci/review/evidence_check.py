"""Check new records against their evidence: build the records again from the archive."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from kvci.children import in_child
from kvci.errors import UserError
from kvci.files import sha256_of
from kvci.record.bundle import unpack
from kvci.record.from_run import READ_ERRORS, build
from kvci.record.schema import Record
from kvci.review.recompute import DatasetUnavailable, differences
from kvci.rundir.parts import Run

EVIDENCE_S = 15 * 60.0
"""The time for the evidence of one run. An expression in its specification may need hours."""
Rebuilt = tuple[dict[str, Record], list[str], str]
Fetch = Callable[[str], bytes]
"""A function that returns the content at the URL of an archive. It raises UserError if the download
fails."""


def check_evidence(arms: Sequence[Record], fetch: Fetch) -> tuple[list[str], list[str]]:
    """Return the problems of a run's records, and the checks that were not possible.

    kvci builds the records again from the archive that they name. It also recomputes the verdicts
    from the dataset's rows and the test logs.
    """
    name = arms[0].run_id
    problems = [
        f"{record.row_id} is unverified: no server log proves its arm"
        for record in arms
        if not all(trial.verified for trial in record.trials)
    ]
    places = {(record.evidence.where, record.evidence.sha256) for record in arms}
    if len(places) > 1:
        return [*problems, f"the arms of {name} name different evidence"], []
    ((url, digest),) = places
    if not url:
        return problems, [f"{name} names no evidence"]
    try:
        archive = fetch(url)
    except UserError as error:
        return problems, [f"the evidence of {name} cannot be downloaded: {_bare(error)}"]
    if sha256_of(archive) != digest:
        return [*problems, f"the evidence of {name} does not have the sha256 of its records"], []
    found = _in_time(archive)
    if isinstance(found, str):
        return [*problems, f"the evidence of {name} gives no record: {found}"], []
    rebuilt, wrong, unchecked = found
    problems += [f"{name}: {line}" for line in wrong]
    problems += [
        problem for record in arms if (problem := _mismatch(record, rebuilt.get(record.arm)))
    ]
    missing = [f"the verdicts of {name} were not recomputed: {unchecked}"] if unchecked else []
    return problems, missing


def _mismatch(record: Record, rebuilt: Record | None) -> str:
    if rebuilt and rebuilt.schema_version > record.schema_version:
        return (
            f"{record.row_id} has the schema version {record.schema_version} of an earlier kvci, "
            f"and this kvci writes version {rebuilt.schema_version}; publish its run again"
        )
    if rebuilt != _without_place(record):
        return f"{record.row_id} does not match its evidence"
    return ""


def _in_time(archive: bytes) -> Rebuilt | str:
    """Return what `_rebuild` returns, or in words why it returns nothing."""
    with tempfile.TemporaryDirectory(prefix="kvci-review-") as folder:

        def work() -> Rebuilt | str:
            try:
                return _rebuild(archive, Path(folder))
            except (UserError, MemoryError, *READ_ERRORS) as error:
                return _bare(error)

        try:
            found: Rebuilt | str = in_child(work, EVIDENCE_S)
        except TimeoutError:
            return f"kvci needs more than {EVIDENCE_S / 60:.0f} minutes to read it"
        except EOFError:
            return "kvci's process ended while it read it; see the job's log"
        return found


def _rebuild(archive: bytes, folder: Path) -> Rebuilt:
    """Return the records by arm, a line for each trial that differs, and a reason.

    The reason says why no verdict could be recomputed; it is empty if verdicts were recomputed.

    Raises UserError or one of READ_ERRORS if the archive is not a run.
    """
    path = folder / "evidence.tar.gz"
    path.write_bytes(archive)
    target = folder / "run"
    target.mkdir()
    run = unpack(path, target)
    if any(part.manifest.demo for part in Run(run).parts):
        raise UserError("it is a demo, which is never published")
    records = {record.arm: _without_place(record) for record in build(run)}
    try:
        return records, differences(run), ""
    except DatasetUnavailable as error:
        return records, [], str(error)


def _without_place(record: Record) -> Record:
    bare = record.evidence.model_copy(update={"where": "", "sha256": ""})
    return record.model_copy(update={"evidence": bare})


def _bare(error: BaseException) -> str:
    return str(error).rstrip(".")
