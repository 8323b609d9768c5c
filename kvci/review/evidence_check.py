"""Check new records against their evidence: build the records again from the archive."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kvci.children import in_child
from kvci.errors import UserError
from kvci.files import sha256_of
from kvci.record.bundle import unpack
from kvci.record.from_run import READ_ERRORS, build
from kvci.record.schema import Record
from kvci.review.basis import on_word, recomputed
from kvci.review.excluded import account_problems, too_many, without_account
from kvci.review.exits import hidden_repetitions
from kvci.review.invalid import without_log
from kvci.review.machines import on_other_machines, unvalidated
from kvci.review.models import other_files, other_models
from kvci.review.recompute import DatasetUnavailable, differences
from kvci.review.served import copied, unserved, untimed, without_times
from kvci.review.tied import loose, unchained, unshown, untied
from kvci.review.times import time_problems
from kvci.review.unaccounted import unaccounted
from kvci.review.verdicts import finished_without_verdict, too_many_unfinished
from kvci.review.workflow import Lookup, compare_with_github, without_workflow
from kvci.rundir.parts import Run

EVIDENCE_S = 15 * 60.0
"""The time for the evidence of one run. An expression in its specification may need hours."""
EVIDENCE_MEMORY = 6 << 30
"""The memory for the evidence of one run. The machines of GitHub have 16 GB."""
UNATTESTED = (
    *(without_account, without_log, finished_without_verdict, too_many_unfinished),
    hidden_repetitions,
)
"""The checks of what a person must accept."""
Fetch = Callable[[str], bytes]
"""A function that returns the content at the URL of an archive. It raises UserError if the download
fails."""


@dataclass
class Checked:
    """The result of a check."""

    problems: list[str] = field(default_factory=list)
    """Contradictions."""
    unattested: list[str] = field(default_factory=list)
    """Checks that were not possible."""
    notes: list[str] = field(default_factory=list)
    """Things that a person should look at."""
    recomputed: list[str] = field(default_factory=list)
    """What was recomputed."""
    on_word: list[str] = field(default_factory=list)
    """What rests on the runner's word alone."""


Rebuilt = tuple[dict[str, Record], str, Checked]
"""The records by arm, the digest of what was asked, and the result of the checks."""


def check_evidence(arms: Sequence[Record], fetch: Fetch, lookup: Lookup) -> Checked:
    """Return what is wrong with a run's records, and what could not be checked.

    kvci builds the records again from the archive that they name. It also recomputes the verdicts
    from the dataset's rows and the test logs. `lookup` finds the workflow runs of the trials.
    """
    name = arms[0].run_id
    problems = [
        f"{record.row_id} is unverified: no server log proves its arm"
        for record in arms
        if not all(trial.verified for trial in record.trials)
    ]
    places = {(record.evidence.where, record.evidence.sha256) for record in arms}
    if len(places) > 1:
        return Checked([*problems, f"the arms of {name} name different evidence"])
    ((url, digest),) = places
    if not url:
        return Checked(problems, [f"{name} names no evidence"])
    try:
        archive = fetch(url)
    except UserError as error:
        why = f"the evidence of {name} cannot be downloaded: {_bare(error)}"
        return Checked(problems, [why])
    if sha256_of(archive) != digest:
        return Checked([*problems, f"the evidence of {name} does not have its records' sha256"])
    rebuilt = _in_time(archive)
    if isinstance(rebuilt, str):
        return Checked([*problems, f"the evidence of {name} gives no record: {rebuilt}"])
    records, asked, found = rebuilt
    problems += [f"{name}: {line}" for line in found.problems]
    mismatches = [
        problem for record in arms if (problem := _mismatch(record, records.get(record.arm)))
    ]
    problems += mismatches
    unattested, notes, done, word = (
        [f"{name}: {line}" for line in lines]
        for lines in (found.unattested, found.notes, found.recomputed, found.on_word)
    )
    unattested += [*too_many(arms), *without_workflow(arms)]
    if not mismatches:  # else the workflow runs that the records name may be invented
        contradictions, unknown = compare_with_github(arms, asked, lookup)
        problems += contradictions
        unattested += unknown
    return Checked(problems, unattested, notes, done, word)


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
            except MemoryError:
                return f"kvci needs more than {EVIDENCE_MEMORY >> 30} GiB of memory to read it"
            except (UserError, *READ_ERRORS) as error:
                return _bare(error)

        try:
            found: Rebuilt | str = in_child(work, EVIDENCE_S, EVIDENCE_MEMORY)
        except TimeoutError:
            return f"kvci needs more than {EVIDENCE_S / 60:.0f} minutes to read it"
        except EOFError:
            return "kvci's process ended while it read it; see the job's log"
        return found


def _rebuild(archive: bytes, folder: Path) -> Rebuilt:
    """Return the records by arm, the digest of what was asked, and the result of all checks.

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
    return records, Run(run).spec.asked, check_run(run)


def check_run(run: Path) -> Checked:
    """Check the files of an unpacked run. Raises UserError or one of READ_ERRORS."""
    parts, outcomes, verdicts = Run(run).parts, Run(run).outcomes(), True
    no_times = without_times(parts)
    found = Checked(
        problems=[
            line
            for part in parts
            for check in (
                *(untied, unserved, copied, other_models, unvalidated),
                *(account_problems, time_problems),
            )
            for line in check(part)
        ],
        unattested=[
            *loose(outcomes),
            *untimed(no_times),
            *(line for check in UNATTESTED for line in check(parts)),
        ],
        notes=[
            line
            for part in parts
            for check in (unshown, unaccounted, other_files, on_other_machines)
            for line in check(part)
        ],
    )
    try:
        found.problems += differences(run)
    except DatasetUnavailable as error:
        found.unattested.append(f"the verdicts were not recomputed: {error}")
        verdicts = False
    found.recomputed = recomputed(parts, verdicts, len(no_times))
    found.on_word = [*on_word(parts), *unchained(parts)]
    return found


def _without_place(record: Record) -> Record:
    bare = record.evidence.model_copy(update={"where": "", "sha256": ""})
    return record.model_copy(update={"evidence": bare})


def _bare(error: BaseException) -> str:
    return str(error).rstrip(".")
