"""Build the records of a run directory: one record per arm."""

import re
from collections.abc import Iterable
from pathlib import Path

from kvci.errors import UserError
from kvci.files import is_disk_full, sha256_of
from kvci.problems import first_problem
from kvci.record.bundle import publishable
from kvci.record.checks import check_blocks, check_trials
from kvci.record.merge import merge
from kvci.record.redact import redact
from kvci.record.schema import EvidenceFiles, Record, RecordedTrial
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import Manifest, Outcome
from kvci.rundir.parts import Run
from kvci.rundir.settle import settle
from kvci.serve.effective import Effective
from kvci.spec import Arm, Spec

TEXT_CHARS_MAX = 2000
READ_ERRORS = (
    *(ValueError, TypeError, AttributeError, LookupError, ArithmeticError),
    *(RuntimeError, OSError),
)
"""Exceptions that reading untrusted evidence may raise, in addition to UserError."""


def build(run: Path, row: bool = True) -> list[Record]:
    """Return the records of a run directory, or of all shards in it: one record per arm.

    Raises UserError if `run` is not a run, or if its files contradict each other. If `row` is true,
    also raises UserError if a trial is unverified, because such a trial can never become a row.
    """
    if parts := Run(run).shards:
        return merge([(part.path.name, _build(part, row)) for part in parts])
    return _build(RunDirectory(run), row)


def build_untrusted(run: Path) -> list[Record]:
    """Return the records of untrusted evidence.

    Raises UserError if the evidence gives no records. Raises OSError only if the disk is full.
    """
    try:
        return build(run)
    except READ_ERRORS as error:
        if is_disk_full(error):
            raise
        why = first_problem(error) if isinstance(error, ValueError) else error
        raise UserError(f"No record can be built from the evidence in {run}: {why}.") from None


def _build(directory: RunDirectory, row: bool) -> list[Record]:
    run, manifest, spec = directory.path, directory.manifest, directory.spec
    for server, problems in directory.judge(spec).items():
        raise UserError(
            f"The log of {server} does not prove the requested configuration "
            f"({'; '.join(problems)}); resume the run with --run-id {manifest.run_id}."
        )
    check_trials(run, manifest, spec)
    outcomes = settle(directory.outcomes())
    check_blocks(outcomes)
    if row and not (spec.verified and all(outcome.verified for outcome in outcomes)):
        raise UserError(
            f"Trials of {run} are unverified and can never become a row, because no server log "
            "proves their arms; run them with a llama-server or the embedded engine."
        )
    return [
        _record(run, manifest, spec, position, outcomes, directory.superseded())
        for position in range(len(spec.arms))
    ]


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
    flagged = [(o, False) for o in outcomes] + [(o, True) for o in superseded]
    trials = [_trial(run, o, old, manifest.redacted) for o, old in flagged if o.arm == arm.id]
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
        planned=spec.instances_of(arm.id, manifest.planned),
        effective=_effective(run, arm),
        trials=tuple(trials),
        evidence=EvidenceFiles(files=_files(run, arm, manifest.redacted)),
    )


def _trial(run: Path, outcome: Outcome, superseded: bool, redacted: bool) -> RecordedTrial:
    fields = outcome.model_dump() | {"superseded": superseded}
    for field in ("detail", "why"):
        text = fields[field] if redacted else redact(fields[field], run)
        fields[field] = text[:TEXT_CHARS_MAX]
    return RecordedTrial.model_validate(fields)


def _effective(run: Path, arm: Arm) -> tuple[Effective, ...]:
    """Return the different configurations that the logs of the arm's servers prove."""
    found: list[Effective] = []
    for log in sorted(RunDirectory(run).server_logs(arm.id)):
        if not log.with_suffix(".json").exists():
            continue
        effective = Effective.read(log.with_suffix(".json"))
        if effective not in found:
            found.append(effective)
    return tuple(found)


def _files(run: Path, arm: Arm, redacted: bool) -> dict[str, str]:
    """Return path in the run -> sha256 of the published content, for each file of the arm."""
    paths = [*(run / "trials" / arm.id).rglob("*")]
    for log in RunDirectory(run).server_logs(arm.id):
        paths += [log, log.with_suffix(".json"), log.with_suffix(".out")]
    paths += run.glob(f"superseded/*/{arm.id}/**/*")
    return {
        str(path.relative_to(run)): sha256_of(publishable(path, run, redacted))
        for path in sorted(paths)
        if path.is_file()
    }
