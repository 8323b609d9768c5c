"""A run directory -> its records, one an arm."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path

from kvci.errors import UserError
from kvci.files import first_problem, is_disk_full, sha256_of
from kvci.record.bundle import published
from kvci.record.merge import merge
from kvci.record.redact import redact
from kvci.record.schema import EvidenceFiles, Record, RecordedTrial
from kvci.rundir.directory import RunDirectory, shard_name
from kvci.rundir.documents import Manifest, Outcome
from kvci.rundir.parts import Run
from kvci.rundir.settle import settle
from kvci.serve.effective import Effective
from kvci.spec import Arm, Spec
from kvci.taxonomy import INFRASTRUCTURE, Class, Exit, Verdict

BLOCK_MAX = timedelta(days=2)
"""No arm of a block begins after a day, and its last trials may begin a while later."""
UNGRADED = {Verdict.NOT_GRADED, Verdict.GRADING_FAILED}
NOT_HAD = INFRASTRUCTURE | {Class.A12}
UNSERVED = {Exit.NOT_STARTED, Exit.SANDBOX_FAILED, Exit.SERVER_FAILED}
"""Of such trials no server may have answered."""
HOSTILE = (
    *(ValueError, TypeError, AttributeError, LookupError, ArithmeticError),
    *(RuntimeError, OSError),
)
"""What reading evidence that somebody has made may raise beside a UserError."""


def build(run: Path, row: bool = True) -> list[Record]:
    """Of a run, or of all of its shards that lie here.

    Raises UserError for what is no run, or, where a row is wanted, can never become one.
    """
    if parts := Run(run).shards:
        return merge([(part.path.name, _build(part, row)) for part in parts])
    return _build(RunDirectory(run), row)


def rebuild(run: Path) -> list[Record]:
    """The same of evidence that nobody vouches for: whatever is wrong with it is a UserError."""
    try:
        return build(run)
    except HOSTILE as error:
        if is_disk_full(error):
            raise
        why = first_problem(error) if isinstance(error, ValueError) else error
        raise UserError(f"The evidence in {run} makes no record: {why}.") from None


def _build(directory: RunDirectory, row: bool) -> list[Record]:
    run, manifest, spec = directory.path, directory.manifest, directory.spec
    for server, problems in directory.judge(spec).items():
        raise UserError(
            f"The log of {server} does not prove what was asked ({'; '.join(problems)}); "
            f"take the run up again with --run-id {manifest.run_id}."
        )
    _hold(run, manifest, spec)
    outcomes = settle(directory.outcomes())
    _hold_blocks(outcomes)
    if row and not (spec.verified and all(outcome.verified for outcome in outcomes)):
        raise UserError(
            f"The trials of {run} are unverified, because no server log proves their arms; "
            "they can never become a row: run them with a llama-server or the embedded engine."
        )
    superseded = [
        Outcome.read(path) for path in sorted(run.glob("superseded/*/*/*/*/outcome.json"))
    ]
    return [
        _record(run, manifest, spec, position, outcomes, superseded)
        for position in range(len(spec.arms))
    ]


def _hold(run: Path, manifest: Manifest, spec: Spec) -> None:
    """Each trial is one that was planned, once, and lies where it says; and so do its patch, its
    tests' report and the log that proves it. Raises UserError."""
    if run.name.startswith("shard-") and run.name != shard_name(spec.shard):
        raise UserError(f"{run.name} holds the shard {spec.shard}.")
    planned = {arm.id: set(spec.of_arm(arm.id, manifest.planned)) for arm in spec.arms}
    found = (run.glob(f"{where}/*/*/*/outcome.json") for where in ("trials", "superseded/*"))
    for path in chain(*found):
        one, shown = Outcome.read(path), path.relative_to(run)
        if path.parts[-4:-1] != (one.arm, one.instance, str(one.seed)):
            raise UserError(f"{shown} is of {one.arm}, {one.instance}, seed {one.seed}.")
        if one.instance not in planned.get(one.arm, ()) or one.seed not in spec.seeds:
            raise UserError(f"{shown} was never planned.")
        if one.shard != spec.shard:
            raise UserError(f"{shown} is of the shard {one.shard}, not of {spec.shard}.")
        _hold_patch(one, path.with_name("patch.diff"), str(shown))
        report = path.parent / "grade" / "report.json"
        if report.exists() and _resolved(report) != (one.verdict is Verdict.RESOLVED):
            raise UserError(f"{shown} says {one.verdict}, and the report of its tests does not.")
        if spec.verified and (one.server or one.exit not in UNSERVED):
            _hold_server(run, one, str(shown))


def _hold_patch(one: Outcome, patch: Path, shown: str) -> None:
    """The patch beside the trial is its own, and what is said of a patch is said of it."""
    content = patch.read_bytes() if patch.exists() else b""
    if patch.exists() and sha256_of(content) != one.patch_sha256:
        raise UserError(f"{shown} names another patch than the one beside it.")
    if patch.exists() and len(content) != one.patch_bytes:
        raise UserError(f"{shown} says {one.patch_bytes} bytes of a patch of {len(content)}.")
    if one.exit in UNSERVED and (one.cls not in NOT_HAD or one.patch_bytes):
        raise UserError(f"{shown} says {one.cls} of a conversation that was none.")
    said_empty = one.verdict is Verdict.EMPTY_PATCH
    if patch.exists() and one.verdict not in UNGRADED and said_empty != (not content.strip()):
        raise UserError(f"{shown} says {one.verdict} of a patch of {len(content)} bytes.")


def _hold_blocks(outcomes: Iterable[Outcome]) -> None:
    """What was paired ran on one machine, with one build, within a day or a little more."""
    blocks: dict[tuple[str, int], list[Outcome]] = defaultdict(list)
    for one in outcomes:
        blocks[one.shard, one.block].append(one)
    for (shard, number), some in blocks.items():
        name = f"Block {number} of shard {shard}"
        starts = [datetime.fromisoformat(one.start) for one in some]
        if len({one.host for one in some}) > 1:
            raise UserError(f"{name} was on several machines.")
        if len({one.server_build for one in some} - {""}) > 1:
            raise UserError(f"{name} was with several builds of the server.")
        if max(starts) - min(starts) > BLOCK_MAX:
            raise UserError(f"{name} took longer than two days.")


def _hold_server(run: Path, one: Outcome, shown: str) -> None:
    """The log that proves the trial is there, of its arm and of its build."""
    log = run / "servers" / f"{one.server or 'none'}.log"
    if not log.exists():
        raise UserError(f"{shown} names the log {log.name}, which is not there.")
    if not re.fullmatch(rf"{re.escape(one.arm)}\.\d+", one.server):
        raise UserError(f"{shown} names the log {log.name}, which is another arm's.")
    if (build := Effective.read(log.with_suffix(".json")).build or "") != one.server_build:
        raise UserError(f"{shown} names the build {one.server_build}, and its log {build}.")


def _resolved(report: Path) -> bool:
    try:
        return bool(json.loads(report.read_bytes())["resolved"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{report} is no report of swebench's.") from None


def _record(
    run: Path,
    manifest: Manifest,
    spec: Spec,
    position: int,
    outcomes: Iterable[Outcome],
    superseded: Iterable[Outcome],
) -> Record:
    arm = spec.arms[position]
    stamp = re.sub(r"[-:Z]", "", manifest.start).replace("T", "_")
    mine = [(o, False) for o in outcomes] + [(o, True) for o in superseded]
    trials = [_trial(run, o, old, manifest.redacted) for o, old in mine if o.arm == arm.id]
    return Record(
        row_id=f"{spec.dataset_name}-{spec.model.name}-kv-{arm.id}-{stamp}",
        run_id=manifest.run_id,
        start=manifest.start,
        dataset=spec.dataset_name,
        arm=arm.id,
        position=position,
        spec=spec.identity(manifest.model_sha256, manifest.dataset_sha256),
        spec_sha256=manifest.spec_sha256,
        host=manifest.host,
        gpu=manifest.gpu,
        kvci=manifest.kvci,
        python=manifest.python,
        sandbox=manifest.sandbox,
        planned=spec.of_arm(arm.id, manifest.planned),
        effective=_effective(run, arm),
        trials=tuple(trials),
        evidence=EvidenceFiles(files=_files(run, arm, manifest.redacted)),
    )


def _trial(run: Path, outcome: Outcome, superseded: bool, redacted: bool) -> RecordedTrial:
    fields = outcome.model_dump() | {"superseded": superseded}
    for text in ("detail", "why"):
        shown = fields[text] if redacted else redact(fields[text], run)
        fields[text] = shown[:2000]
    return RecordedTrial.model_validate(fields)


def _effective(run: Path, arm: Arm) -> tuple[Effective, ...]:
    found: list[Effective] = []
    for log in sorted(RunDirectory(run).server_logs(arm.id)):
        if not log.with_suffix(".json").exists():
            continue
        effective = Effective.read(log.with_suffix(".json"))
        if effective not in found:
            found.append(effective)
    return tuple(found)


def _files(run: Path, arm: Arm, redacted: bool) -> dict[str, str]:
    paths = [*(run / "trials" / arm.id).rglob("*")]
    for log in RunDirectory(run).server_logs(arm.id):
        paths += [log, log.with_suffix(".json"), log.with_suffix(".out")]
    paths += run.glob(f"superseded/*/{arm.id}/**/*")
    return {
        str(path.relative_to(run)): sha256_of(published(path, run, redacted))
        for path in sorted(paths)
        if path.is_file()
    }
