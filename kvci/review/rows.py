"""What a pull request says of results, held against the evidence. Nothing of it is ever run.

Its files come as bytes; the base is trusted, the head and the evidence are not.
"""

import re
import tempfile
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import ndiff
from html import escape
from pathlib import Path

from kvci.compare.compare import compare_run
from kvci.compare.findings import Comparison
from kvci.errors import UserError
from kvci.files import sha256_of
from kvci.record.bundle import unpack
from kvci.record.from_run import READ_ERRORS, build
from kvci.record.places import BENCHMARKS, RESULTS
from kvci.record.schema import Imported, Record, RunKey, by_run
from kvci.record.store import REGRADABLE, file_name, parse, trial_keys
from kvci.report.benchmarks import EMPTY, begun, prose, render
from kvci.report.comparison import markdown, unpaired, verdict
from kvci.report.plot import of_run
from kvci.report.tables import table
from kvci.review.recompute import Unknown, unlike
from kvci.rundir.parts import Run
from kvci.taxonomy import INFRASTRUCTURE

HEADER = ("New row", "Trials", "Resolved", "Verdict")
MAX_RECORD_BYTES = 20 << 20
Files = Mapping[str, bytes]
"""Path in the repository -> content, of BENCHMARKS.md and the records."""
Fetch = Callable[[str], bytes]
"""URL of an archive -> its bytes; raises UserError if it cannot be had."""


@dataclass(frozen=True)
class Review:
    """What was found. `problems` fail it; `unattested` do too, unless a maintainer accepts them."""

    new: tuple[Record, ...]
    problems: tuple[str, ...]
    unattested: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What a person should look at."""

    def passes(self, accepted: bool) -> bool:
        return not self.problems and (accepted or not self.unattested)


def review(base: Files, head: Files, fetch: Fetch) -> Review:
    """Hold the head's rows against its records, and its new records against their evidence."""
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
    problems += _rows(head, records)
    own = {path: record for path, record in records.items() if isinstance(record, Record)}
    touched = {record.key for path, record in own.items() if head[path] != base.get(path)}
    # With one arm all are new: their evidence is one, and what is compared are all of them.
    new = [record for record in own.values() if record.key in touched]
    unattested = [
        f"{path} is a new record of an earlier tool, of which there is no evidence"
        for path, record in records.items()
        if isinstance(record, Imported) and path not in base
    ]
    for arms in by_run(new).values():
        _attest(arms, fetch, problems, unattested)
    changed, removed = _prose(base, head, records)
    ours = bool(records) or any(map(_begun, (base, head)))
    problems += [f"{BENCHMARKS} has a line like a row's that is none: {x[:200]}" for x in changed
                 if ours and re.search(r"[|<]|```|~~~|!\[", x)]  # fmt: skip
    notes = [f"{BENCHMARKS}, changed by hand: {line[:200]}" for line in changed]
    notes += [f"{BENCHMARKS}, removed by hand: {line[:200]}" for line in removed]
    return Review(tuple(new), tuple(problems), tuple(unattested), (*notes, *_notes(new)))


def _record(path: str, content: bytes) -> Record | Imported:
    if len(content) > MAX_RECORD_BYTES:
        raise UserError(f"{path} is larger than {MAX_RECORD_BYTES >> 20} MiB")
    try:
        record = parse(content, path)
    except UserError as error:
        raise UserError(str(error).rstrip(".")) from None
    if path != f"{RESULTS}/{file_name(record.row_id)}":
        raise UserError(f"{path} holds the record {record.row_id}")
    return record


def _edits(base: Files, head: Files, records: Mapping[str, Record | Imported]) -> list[str]:
    """A record may only go on: the same run, with all the trials that it had and more.

    Its arms go on together, for they name one archive.
    """
    was = {
        path: records.get(path) if head[path] == content else _record(path, content)
        for path, content in base.items()
        if path != BENCHMARKS and path in head
    }
    runs = by_run(one for one in was.values() if isinstance(one, Record))
    open_ = {key for key, arms in runs.items() if _is_open(arms)}
    found = []
    for path in sorted(base.keys() - {BENCHMARKS}):
        if path not in head:
            found.append(f"{path} is removed")
        elif head[path] != base[path] and not _goes_on(was[path], records.get(path), open_):
            found.append(f"{path} is edited")
    return found


def _is_open(arms: Sequence[Record]) -> bool:
    """Of a run: trials are to come, or to be graded again."""
    waits = any(trial.cls in REGRADABLE for one in arms for trial in one.counted)
    return waits or len(arms) < len(arms[0].spec["arms"]) or not all(one.complete for one in arms)


def _goes_on(
    was: Record | Imported | None,
    now: Record | Imported | None,
    open_: Container[RunKey],
) -> bool:
    if not isinstance(was, Record) or not isinstance(now, Record) or was.key != now.key:
        return False
    had, kept = (
        {(t.instance, t.seed, t.start, t.patch_sha256) for t in one.trials} for one in (was, now)
    )
    more = trial_keys(was) <= trial_keys(now) and set(was.planned) <= set(now.planned)
    return was.key in open_ and had <= kept and more


def _rows(head: Files, records: Mapping[str, Record | Imported]) -> list[str]:
    try:
        text = head.get(BENCHMARKS, b"").decode()
        right = render(text, list(records.values()))
    except (UserError, UnicodeDecodeError) as error:
        return [f"{BENCHMARKS} cannot be held against its records: {error}"]
    old, new = text.split("\n"), right.split("\n")
    if old == new:
        return []
    wrong = next((line for line in old if line not in new), "a line is missing")
    return [f"{BENCHMARKS} is not what the records give: {wrong[:300]}"]


def _prose(
    base: Files, head: Files, records: Mapping[str, Record | Imported]
) -> tuple[list[str], list[str]]:
    """Lines outside of kvci's tables: those that neither the base has nor the records give in that
    place, and those that are there no more."""
    try:
        known = prose(render(base.get(BENCHMARKS, EMPTY.encode()).decode(), list(records.values())))
        there = prose(head.get(BENCHMARKS, b"").decode())
    except (UserError, UnicodeDecodeError):
        return [], []  # it is among the problems
    lines = list(ndiff(known, there))
    added, gone = ([one[2:] for one in lines if one.startswith(sign)] for sign in ("+ ", "- "))
    return [line for line in added if line.strip()], [line for line in gone if line.strip()]


def _begun(files: Files) -> bool:
    """There are tables of kvci's, which others may be taken for."""
    try:
        return begun(files.get(BENCHMARKS, b"").decode())
    except (UserError, UnicodeDecodeError):
        return True


def _notes(new: Sequence[Record]) -> list[str]:
    found = []
    for arms in by_run(new).values():
        if (asked := len(arms[0].spec["arms"])) > len(arms):
            found.append(f"{arms[0].run_id}: {asked - len(arms)} of {asked} arms have no record")
        for record in arms:
            dropped = sum(trial.cls in INFRASTRUCTURE for trial in record.counted)
            old = sum(trial.superseded for trial in record.trials)
            lacking = record.total - len(record.counted)
            counts = ((lacking, "not done yet"), (dropped, "ended by infrastructure"),
                      (old, "superseded"))  # fmt: skip
            if told := ", ".join(f"{count} {what}" for count, what in counts if count):
                found.append(f"{record.row_id}: trials {told}")
    return found


def _attest(arms: list[Record], fetch: Fetch, problems: list[str], unattested: list[str]) -> None:
    """Build the records of one run again from the archive that they name, and its verdicts from the
    dataset's rows and the logs of the tests."""
    name = arms[0].run_id
    for record in arms:
        if not all(trial.verified for trial in record.trials):
            problems.append(f"{record.row_id} is unverified: no server log proves its arm")
    places = {(record.evidence.where, record.evidence.sha256) for record in arms}
    if len(places) > 1:
        problems.append(f"the arms of {name} name different evidence")
        return
    (where, digest) = places.pop()
    if not where:
        unattested.append(f"{name} names no evidence")
        return
    try:
        archive = fetch(where)
    except UserError as error:
        unattested.append(f"the evidence of {name} cannot be had: {str(error).rstrip('.')}")
        return
    if sha256_of(archive) != digest:
        problems.append(f"the evidence of {name} is not what its records say (sha256)")
        return
    try:
        again, wrong, why = _built(archive)
    except (UserError, *READ_ERRORS) as error:
        problems.append(f"the evidence of {name} makes no record: {str(error).rstrip('.')}")
        return
    problems += [f"{name}: {line}" for line in wrong]
    unattested += [f"the verdicts of {name} are as the runner says: {why}"] if why else []
    for record in arms:
        made = again.get(record.arm)
        if made and made.schema_version > record.schema_version:
            problems.append(
                f"{record.row_id} has the schema {record.schema_version} of an earlier kvci, and "
                f"this one writes {made.schema_version}: publish its run again"
            )
        elif made != _placeless(record):
            problems.append(f"{record.row_id} is not what its evidence gives")


def _built(archive: bytes) -> tuple[dict[str, Record], list[str], str]:
    """The records by arm, verdicts that the tests' logs do not give, and why nobody looked."""
    with tempfile.TemporaryDirectory(prefix="kvci-review-") as folder:
        place = Path(folder, "evidence.tar.gz")
        place.write_bytes(archive)
        run = Path(folder, "run")
        run.mkdir()
        found = unpack(place, run)
        if any(part.manifest.demo for part in Run(found).parts):
            raise UserError("a demo is no evidence of a row")
        records = {record.arm: _placeless(record) for record in build(found)}
        try:
            return records, unlike(found), ""
        except Unknown as error:
            return records, [], str(error)


def _placeless(record: Record) -> Record:
    bare = record.evidence.model_copy(update={"where": "", "sha256": ""})
    return record.model_copy(update={"evidence": bare})


def comment(found: Review, accepted: bool) -> str:
    """For the pull request: verdict first."""
    lines = ["**The rows are what their evidence gives.**"]
    if found.unattested:
        lines = ["**Nobody has checked these rows: not all of their evidence can be had.**"]
    if found.problems:
        lines = ["**The rows cannot be believed as they are:**", ""]
        lines += [f"- {_plain(problem)}" for problem in found.problems]
    if found.unattested:
        head = "accepted by a maintainer" if accepted else "a maintainer's label may accept it"
        lines += ["", f"Unattested ({head}):", ""]
        lines += [f"- {_plain(line)}" for line in found.unattested]
    runs = [(arms, compare_run(arms)) for arms in by_run(found.new).values()]
    if runs:
        cells = (some for arms, made in runs for some in _cells(arms, made))
        lines += ["", *table(HEADER, cells)]
    notes = [*found.notes, *(warning for _, made in runs if made for warning in made.warnings)]
    if notes:
        lines += ["", "Look at:", "", *(f"- {_plain(note)}" for note in notes)]
    for arms, made in runs:
        if made:
            name = escape(arms[0].run_id)
            lines += ["", f"<details><summary>{name}, compared</summary>", ""]
            lines += [markdown(made), of_run(arms), "</details>"]
    return "\n".join(lines)


def _cells(arms: Sequence[Record], made: Comparison | None) -> Iterator[tuple[str, ...]]:
    words = {arm.name: verdict(made, arm) for arm in made.arms} if made else {}
    for record in arms:
        yield (
            _plain(record.row_id),
            f"{len(record.counted)}/{record.total}",
            str(record.resolved),
            words.get(record.row_id) or unpaired(record),
        )


def _plain(text: str) -> str:
    """As code, in which no markup, no HTML and no mention of anybody has a meaning."""
    return f"`{' '.join(text.replace('`', ' ').split())[:500]}`"
