"""Check the records and rows of a pull request. kvci runs nothing of the pull request.

kvci reads the files as bytes. It trusts the files of the base branch. It does not trust the files
of the head, and not the evidence.
"""

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from kvci.errors import UserError
from kvci.record.places import BENCHMARKS, RECORD_MAX_BYTES, RESULTS
from kvci.record.schema import Imported, Record, RecordedTrial, RunKey, by_run
from kvci.record.store import REGRADABLE, file_name, parse, trial_keys
from kvci.review.copies import copied_trials
from kvci.review.evidence_check import Fetch, check_evidence
from kvci.review.page import check_page
from kvci.review.workflow import Lookup, limited
from kvci.rundir.documents import Outcome
from kvci.taxonomy import INFRASTRUCTURE, Class

GRADED = {"verdict", "cls", "applies", "fail_to_pass", "pass_to_pass", "doubt"}
"""The fields of a trial that change if its patch is graded again after a failure."""
FREE = {"superseded", "why", "detail", "eval_s", "log_sha256"}
"""The fields of a stored trial that may change: texts, and what each grading of a patch changes."""
Files = Mapping[str, bytes]
"""Path in the repository -> content, for BENCHMARKS.md and the records."""


@dataclass(frozen=True)
class Review:
    """The result of a review.

    A problem fails the review. A line in `unattested` also fails it, except if a maintainer accepts
    the unattested records.
    """

    new: tuple[Record, ...]
    problems: tuple[str, ...]
    unattested: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """Things that a person should look at."""
    edits: tuple[str, ...] = ()
    """Lines of BENCHMARKS.md that a person changed. Anyone may send many, so they have a list of
    their own and hide no note."""
    recomputed: tuple[str, ...] = ()
    on_word: tuple[str, ...] = ()
    """What rests on the word of the runner alone."""

    def passes(self, accepted: bool) -> bool:
        return not self.problems and (accepted or not self.unattested)


def review(base: Files, head: Files, fetch: Fetch, lookup: Lookup = lambda _: None) -> Review:
    """Check the head's rows against its records, and its new records against their evidence.

    `lookup` returns what GitHub knows about a workflow run.
    """
    problems: list[str] = []
    records: dict[str, Record | Imported] = {}
    for path, content in sorted(head.items()):
        if path == BENCHMARKS:
            continue
        try:
            records[path] = _record(path, content)
        except UserError as error:
            problems.append(str(error))
    problems += _edits(base, head, records)
    page_problems, edits = check_page(
        base.get(BENCHMARKS), head.get(BENCHMARKS, b""), list(records.values())
    )
    new = _new(base, head, records)
    unattested = [
        f"{path} is a new record of an imported run, for which there is no evidence"
        for path, record in records.items()
        if isinstance(record, Imported) and path not in base
    ]
    notes = _notes(new)
    recomputed, on_word = list[str](), list[str]()
    shared = _shared_evidence(records.values())
    lookup = limited(lookup)
    for arms in by_run(new).values():
        if places := shared & {one.evidence.where for one in arms}:
            problems.append(f"{arms[0].run_id} names the evidence of another run: {min(places)}")
            continue
        found = check_evidence(arms, fetch, lookup)
        problems += found.problems
        unattested += found.unattested
        notes += found.notes
        recomputed += found.recomputed
        on_word += found.on_word
    problems += copied_trials(new, (one for one in records.values() if isinstance(one, Record)))
    problems += page_problems
    lists = (problems, unattested, notes, edits, recomputed, on_word)
    return Review(tuple(new), *map(tuple, lists))


def _record(path: str, content: bytes) -> Record | Imported:
    """Return the record in a file.

    Raises UserError if the file is not the record of its name. The message has no full stop.
    """
    if len(content) > RECORD_MAX_BYTES:
        raise UserError(f"{path} is larger than {RECORD_MAX_BYTES >> 20} MiB")
    try:
        record = parse(content, path)
    except UserError as error:
        raise UserError(str(error).rstrip(".")) from None
    if path != f"{RESULTS}/{file_name(record.row_id)}":
        raise UserError(f"{path} contains the record {record.row_id}")
    return record


def _new(base: Files, head: Files, records: Mapping[str, Record | Imported]) -> list[Record]:
    """Return all records of the runs that have a changed record.

    The records of a run share their evidence and are compared with each other.
    """
    own = {path: record for path, record in records.items() if isinstance(record, Record)}
    touched = {record.key for path, record in own.items() if head[path] != base.get(path)}
    return [record for record in own.values() if record.key in touched]


def _shared_evidence(records: Iterable[Record | Imported]) -> set[str]:
    """Return the URLs that two runs name. An archive has one run, so it is not worth a download."""
    runs = by_run(one for one in records if isinstance(one, Record))
    named = Counter(url for arms in runs.values() for url in {one.evidence.where for one in arms})
    return {url for url, count in named.items() if url and count > 1}


def _edits(base: Files, head: Files, records: Mapping[str, Record | Imported]) -> list[str]:
    """Return the forbidden changes of existing records.

    A record may only gain trials of its run; it must keep all earlier trials. The records of a run
    gain trials together, because they name one archive.
    """
    earlier = {
        path: records.get(path) if head[path] == content else _record(path, content)
        for path, content in base.items()
        if path != BENCHMARKS and path in head
    }
    runs = by_run(one for one in earlier.values() if isinstance(one, Record))
    unfinished = {key for key, arms in runs.items() if _is_unfinished(arms)}
    found = []
    for path in sorted(base.keys() - {BENCHMARKS}):
        if path not in head:
            found.append(f"{path} is removed")
        elif head[path] != base[path] and not _extends(
            earlier[path], records.get(path), unfinished
        ):
            found.append(
                f"{path} is edited; a record may only gain trials of its run, and gradings"
            )
    return found


def _is_unfinished(arms: Sequence[Record]) -> bool:
    """True if a run lacks trials or arms, or has trials that may be graded again."""
    waits = any(trial.cls in REGRADABLE for one in arms for trial in one.counted)
    return waits or len(arms) < len(arms[0].spec["arms"]) or not all(one.complete for one in arms)


def _extends(
    earlier: Record | Imported | None,
    now: Record | Imported | None,
    unfinished: Container[RunKey],
) -> bool:
    if not isinstance(earlier, Record) or not isinstance(now, Record) or earlier.key != now.key:
        return False
    more = trial_keys(earlier) <= trial_keys(now) and set(earlier.planned) <= set(now.planned)
    kept = {_key(trial): trial for trial in now.trials}
    same = all(_key(one) in kept and _is_same(one, kept[_key(one)]) for one in earlier.trials)
    return earlier.key in unfinished and more and same


def _key(trial: RecordedTrial) -> tuple[str, int, str, str]:
    return trial.instance, trial.seed, trial.start, trial.patch_sha256


def _is_same(stored: RecordedTrial, now: RecordedTrial) -> bool:
    """True if only the grading of a trial changed, and only if it had failed."""
    free = FREE | (GRADED if stored.cls in REGRADABLE else set())
    if {stored.cls, now.cls} <= {Class.I2, Class.A12}:
        free |= {"cls"}  # it depends on the other arms' trials
    names = Outcome.model_fields.keys() - free
    return all(getattr(stored, name) == getattr(now, name) for name in names)


def _notes(new: Sequence[Record]) -> list[str]:
    """Return the arms without a record, and the trials that are missing or do not count."""
    found = []
    for arms in by_run(new).values():
        if (asked := len(arms[0].spec["arms"])) > len(arms):
            found.append(f"{arms[0].run_id}: {asked - len(arms)} of {asked} arms have no record")
        for record in arms:
            dropped = sum(trial.cls in INFRASTRUCTURE for trial in record.counted)
            old = sum(trial.superseded for trial in record.trials)
            missing = record.total - len(record.counted)
            counts = ((missing, "not done yet"), (dropped, "ended by infrastructure"),
                      (old, "superseded"))  # fmt: skip
            if line := ", ".join(f"{count} {what}" for count, what in counts if count):
                found.append(f"{record.row_id}: trials {line}")
    return found
