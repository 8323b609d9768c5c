"""Check that the files of a run agree with its plan and with each other.

Records are built only from a run that passes these checks.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from kvci.errors import UserError
from kvci.files import sha256_of
from kvci.plan import cut
from kvci.rundir.directory import RunDirectory, shard_name
from kvci.rundir.documents import UNGRADED, Manifest, Outcome
from kvci.serve.effective import Effective
from kvci.spec import Spec
from kvci.taxonomy import INFRASTRUCTURE, NAMES, Class, Exit, Verdict

BLOCK_MAX = timedelta(days=2)
"""The longest time between the first and the last start of a trial in a block. All arms of a block
start within 24 hours; their last trials may start later."""
WITHOUT_CONVERSATION = {Exit.NOT_STARTED, Exit.SANDBOX_FAILED, Exit.SERVER_FAILED}
"""Exits of trials in which the server may never have answered."""
CLASSES_WITHOUT_CONVERSATION = INFRASTRUCTURE | {Class.A12}
REMEDY = "restore the original files of the run"
NOT_COMPARABLE = ", so its arms cannot be compared; start a new run."


def check_trials(run: Path, manifest: Manifest, spec: Spec) -> None:
    """Check every trial of a run directory, including superseded trials.

    Raises UserError if a trial is not planned, is not in the folder of its arm, instance and seed,
    or belongs to another shard or block. Also raises UserError if a trial does not agree with its
    patch, its test report or its server's log.
    """
    if run.name.startswith("shard-") and run.name != shard_name(spec.shard):
        raise UserError(f"{run.name} contains shard {spec.shard}; rename the folder.")
    planned = {arm.id: set(spec.instances_of(arm.id, manifest.planned)) for arm in spec.arms}
    blocks = {name: each.number for each in cut(manifest.planned, spec) for name in each.instances}
    for path in RunDirectory(run).outcome_files():
        trial, name = Outcome.read(path), str(path.relative_to(run))
        if path.parts[-4:-1] != (trial.arm, trial.instance, str(trial.seed)):
            raise UserError(
                f"{name} belongs to {trial.trial}, but its folder has another name; {REMEDY}."
            )
        if trial.instance not in planned.get(trial.arm, ()) or trial.seed not in spec.seeds:
            raise UserError(f"{name} was never planned; {REMEDY}.")
        if trial.shard != spec.shard:
            raise UserError(
                f"{name} belongs to shard {trial.shard}, not to shard {spec.shard}; {REMEDY}."
            )
        if trial.block != (block := blocks[trial.instance]):
            raise UserError(
                f"{name} belongs to block {trial.block}, but its instance is planned for block "
                f"{block}; {REMEDY}."
            )
        _check_patch(trial, path.with_name("patch.diff"), name)
        report = path.parent / "grade" / "report.json"
        if report.exists() and _resolved(report) != (trial.verdict is Verdict.RESOLVED):
            raise UserError(
                f"{name} has verdict {trial.verdict}, but its test report disagrees; {REMEDY}."
            )
        if spec.verified and (trial.server or trial.exit not in WITHOUT_CONVERSATION):
            _check_server(run, trial, name)


def _check_patch(trial: Outcome, patch: Path, name: str) -> None:
    """Raise UserError if the trial's digest, size, class or verdict does not fit its patch file."""
    content = patch.read_bytes() if patch.exists() else b""
    if patch.exists() and sha256_of(content) != trial.patch_sha256:
        raise UserError(
            f"{name} and patch.diff in the same folder have different patches; {REMEDY}."
        )
    if patch.exists() and len(content) != trial.patch_bytes:
        raise UserError(
            f"{name} says that the patch has {trial.patch_bytes} bytes, but patch.diff has "
            f"{len(content)} bytes; {REMEDY}."
        )
    if trial.exit in WITHOUT_CONVERSATION and (
        trial.cls not in CLASSES_WITHOUT_CONVERSATION or trial.patch_bytes
    ):
        raise UserError(
            f"{name} has class {trial.cls} ({NAMES[trial.cls]}), but no conversation took place; "
            f"{REMEDY}."
        )
    graded_empty = trial.verdict is Verdict.EMPTY_PATCH
    if patch.exists() and trial.verdict not in UNGRADED and graded_empty != (not content.strip()):
        raise UserError(
            f"{name} has verdict {trial.verdict}, but its patch has {len(content)} bytes; {REMEDY}."
        )


def _check_server(run: Path, trial: Outcome, name: str) -> None:
    """Raise UserError if the trial's server log is missing, or has another arm or build."""
    log = run / "servers" / f"{trial.server or 'none'}.log"
    if not log.exists():
        raise UserError(f"{name} names the log {log.name}, which does not exist; {REMEDY}.")
    if not re.fullmatch(rf"{re.escape(trial.arm)}\.\d+", trial.server):
        raise UserError(f"{name} names the log {log.name}, which belongs to another arm; {REMEDY}.")
    if (build := Effective.read(log.with_suffix(".json")).build or "") != trial.server_build:
        raise UserError(
            f"{name} names the build {trial.server_build}, but its log shows {build}; {REMEDY}."
        )


def _resolved(report: Path) -> bool:
    """True if swebench's test report says resolved. Raises UserError if the file is not one."""
    try:
        return bool(json.loads(report.read_bytes())["resolved"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{report} is not a test report of swebench; {REMEDY}.") from None


def check_blocks(outcomes: Iterable[Outcome]) -> None:
    """Check that each block ran on one machine, with one server build, within `BLOCK_MAX`.

    Raises UserError if a block did not.
    """
    blocks: dict[tuple[str, int], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        blocks[outcome.shard, outcome.block].append(outcome)
    for (shard, number), trials in blocks.items():
        name = f"Block {number} of shard {shard}"
        starts = [datetime.fromisoformat(trial.start) for trial in trials]
        if len({trial.host for trial in trials}) > 1:
            raise UserError(f"{name} ran on several machines{NOT_COMPARABLE}")
        if len({trial.server_build for trial in trials} - {""}) > 1:
            raise UserError(f"{name} ran with several server builds{NOT_COMPARABLE}")
        if max(starts) - min(starts) > BLOCK_MAX:
            raise UserError(f"{name} took longer than two days{NOT_COMPARABLE}")
