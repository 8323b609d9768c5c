"""Checks that the files of a run agree with its plan and with each other.

Records are built only from a run that passes.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path

from kvci.errors import UserError
from kvci.files import sha256_of
from kvci.rundir.directory import shard_name
from kvci.rundir.documents import UNGRADED, Manifest, Outcome
from kvci.serve.effective import Effective
from kvci.spec import Spec
from kvci.taxonomy import INFRASTRUCTURE, NAMES, Class, Exit, Verdict

BLOCK_MAX = timedelta(days=2)
"""No arm of a block starts after 24 hours, but its last trials may start later than that."""
WITHOUT_CONVERSATION = {Exit.NOT_STARTED, Exit.SANDBOX_FAILED, Exit.SERVER_FAILED}
"""In a trial with one of these exits, the server may never have answered."""
CLASSES_WITHOUT_CONVERSATION = INFRASTRUCTURE | {Class.A12}


def check_trials(run: Path, manifest: Manifest, spec: Spec) -> None:
    """Check every trial of a run directory, superseded ones included.

    A trial is planned, lies in the folder of its arm, instance and seed, belongs to the shard, and
    agrees with its patch, its test report and its server's log. Raises UserError.
    """
    if run.name.startswith("shard-") and run.name != shard_name(spec.shard):
        raise UserError(f"{run.name} contains shard {spec.shard}; rename the folder.")
    planned = {arm.id: set(spec.instances_of(arm.id, manifest.planned)) for arm in spec.arms}
    paths = (run.glob(f"{folder}/*/*/*/outcome.json") for folder in ("trials", "superseded/*"))
    for path in chain(*paths):
        trial, name = Outcome.read(path), str(path.relative_to(run))
        if path.parts[-4:-1] != (trial.arm, trial.instance, str(trial.seed)):
            raise UserError(
                f"{name} belongs to {trial.arm}, {trial.instance}, seed {trial.seed}; its folder "
                "has another name."
            )
        if trial.instance not in planned.get(trial.arm, ()) or trial.seed not in spec.seeds:
            raise UserError(f"{name} was never planned.")
        if trial.shard != spec.shard:
            raise UserError(f"{name} belongs to shard {trial.shard}, not to shard {spec.shard}.")
        _check_patch(trial, path.with_name("patch.diff"), name)
        report = path.parent / "grade" / "report.json"
        if report.exists() and _resolved(report) != (trial.verdict is Verdict.RESOLVED):
            raise UserError(f"{name} has verdict {trial.verdict}, but its test report disagrees.")
        if spec.verified and (trial.server or trial.exit not in WITHOUT_CONVERSATION):
            _check_server(run, trial, name)


def _check_patch(trial: Outcome, patch: Path, name: str) -> None:
    """The patch file is the trial's own, and the trial's class and verdict fit it."""
    content = patch.read_bytes() if patch.exists() else b""
    if patch.exists() and sha256_of(content) != trial.patch_sha256:
        raise UserError(f"{name} and patch.diff in the same folder have different patches.")
    if patch.exists() and len(content) != trial.patch_bytes:
        raise UserError(
            f"{name} gives the patch {trial.patch_bytes} bytes, but patch.diff has {len(content)}."
        )
    if trial.exit in WITHOUT_CONVERSATION and (
        trial.cls not in CLASSES_WITHOUT_CONVERSATION or trial.patch_bytes
    ):
        raise UserError(
            f"{name} has class {trial.cls} ({NAMES[trial.cls]}), but no conversation took place."
        )
    graded_empty = trial.verdict is Verdict.EMPTY_PATCH
    if patch.exists() and trial.verdict not in UNGRADED and graded_empty != (not content.strip()):
        raise UserError(
            f"{name} has verdict {trial.verdict}, but its patch has {len(content)} bytes."
        )


def _check_server(run: Path, trial: Outcome, name: str) -> None:
    """The server's log that the trial names exists, and has the trial's arm and build."""
    log = run / "servers" / f"{trial.server or 'none'}.log"
    if not log.exists():
        raise UserError(f"{name} names the log {log.name}, which does not exist.")
    if not re.fullmatch(rf"{re.escape(trial.arm)}\.\d+", trial.server):
        raise UserError(f"{name} names the log {log.name}, which belongs to another arm.")
    if (build := Effective.read(log.with_suffix(".json")).build or "") != trial.server_build:
        raise UserError(f"{name} names the build {trial.server_build}, but its log shows {build}.")


def _resolved(report: Path) -> bool:
    """Return what a test report of swebench states. Raises UserError if it is not one."""
    try:
        return bool(json.loads(report.read_bytes())["resolved"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{report} is not a test report of swebench.") from None


def check_blocks(outcomes: Iterable[Outcome]) -> None:
    """Check that each block ran on one machine, with one server build, within `BLOCK_MAX`.

    Raises UserError.
    """
    blocks: dict[tuple[str, int], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        blocks[outcome.shard, outcome.block].append(outcome)
    for (shard, number), trials in blocks.items():
        name = f"Block {number} of shard {shard}"
        starts = [datetime.fromisoformat(trial.start) for trial in trials]
        if len({trial.host for trial in trials}) > 1:
            raise UserError(f"{name} ran on several machines; its arms cannot be compared.")
        if len({trial.server_build for trial in trials} - {""}) > 1:
            raise UserError(f"{name} ran with several server builds; its arms cannot be compared.")
        if max(starts) - min(starts) > BLOCK_MAX:
            raise UserError(f"{name} took longer than two days; its arms cannot be compared.")
