"""Recompute a run's trials from their files.

Verdicts come from the test logs and the dataset's rows (`verdicts.py`), exits and counts from the
conversations (`exits.py`), and classes from both.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from kvci.errors import UserError
from kvci.plan import select
from kvci.review.exits import conversation_problem, readings
from kvci.review.invalid import invalid_difference
from kvci.review.opening import opening_difference
from kvci.review.verdicts import verdict_problem
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import WITHOUT_PATCH, Manifest, Outcome
from kvci.rundir.parts import Run
from kvci.spec import Spec
from kvci.tasks.dataset import NAMED, dataset_sha256, is_calibration, load
from kvci.tasks.row import Row, patched_files
from kvci.taxonomy import INFRASTRUCTURE, LAST_ACTIONS, Class, Exit, Observed, classify, titled


class DatasetUnavailable(Exception):
    """The dataset is not available here, so the verdicts cannot be recomputed."""


def differences(run: Path) -> list[str]:
    """Return a line for each trial whose outcome differs from the recomputed outcome.

    Raises UserError if the dataset is not the one that the run used. Raises DatasetUnavailable if
    the dataset is not public. Public are the calibration suite, datasets of the hub that have a
    short name, and files of this work tree.
    """
    return [line for part in Run(run).parts for line in _differences(part)]


def _differences(directory: RunDirectory) -> Iterator[str]:
    spec, manifest = directory.spec, directory.manifest
    rows = _rows(spec.dataset, manifest)
    if tuple(select(list(rows), spec)) != manifest.planned:
        yield "the planned instances are not the instances that its specification selects"
    outcomes = directory.outcomes()
    tried = {(one.host, one.instance) for one in outcomes if one.cls not in INFRASTRUCTURE}
    for one in outcomes:
        if one.cls is Class.I0 and (one.host, one.instance) in tried:
            yield f"{one.instance} is invalid for {one.arm}, but not for another trial"
        folder = directory.trial(one.trial)
        row = rows[one.instance]
        difference = (
            (verdict_problem(row, one, folder, spec.test_s) if one.has_patch else "")
            or (invalid_difference(row, one, directory) if one.cls is Class.I0 else "")
            or opening_difference(row, one, folder / "trajectory.jsonl", spec.prompt)
            or _conversation_difference(row, one, folder, spec)
        )
        if difference:
            yield f"{one.trial}: {difference}"


def _rows(dataset: str, manifest: Manifest) -> dict[str, Row]:
    """Return instance id -> row. Raises the same exceptions as `differences`."""
    name, file = dataset.partition("@")[0], Path(dataset)
    own = is_calibration(dataset)
    here = file.is_file() and not file.is_absolute() and ".." not in file.parts
    if not (own or here or name in {*NAMED, *NAMED.values()}):
        raise DatasetUnavailable(f"the rows of {dataset} are not available here")
    try:
        instances = load(dataset, manifest.dataset_revision)
    except UserError as error:
        if own:
            raise
        raise DatasetUnavailable(str(error).rstrip(".")) from None
    if dataset_sha256(instances) != manifest.dataset_sha256:
        raise UserError(f"{dataset} is not the dataset that the run used")
    rows = {one.row.instance_id: one.row for one in instances}
    if unknown := sorted(set(manifest.planned) - rows.keys()):
        raise UserError(f"{unknown[0]} is not an instance of {dataset}")
    return rows


def _conversation_difference(row: Row, one: Outcome, folder: Path, spec: Spec) -> str:
    """Return how a trial differs from its conversation and its class; empty if it does not."""
    if one.exit in WITHOUT_PATCH:
        invalid = one.exit is Exit.NOT_STARTED
        found, why = classify(Observed(one.exit, one.verdict, instance_invalid=invalid))
        return "" if found is one.cls else _wrong_class(one.cls, found, why)
    trajectory, patch = folder / "trajectory.jsonl", folder / "patch.diff"
    if not (trajectory.exists() and patch.exists()):
        return f"its exit is {one.exit}, but its conversation or its patch is missing"
    if problem := conversation_problem(one, trajectory, spec):
        return problem
    evidence = Observed(
        exit=one.exit,
        verdict=one.verdict,
        server_failures=one.server_failures,
        patched_files=patched_files(patch.read_text(errors="replace")),
        gold_files=patched_files(row.patch),
    )
    possible = [
        classify(replace(evidence, last_actions=tuple(talk.actions[-LAST_ACTIONS:])))
        for talk in readings(one, trajectory, spec)
    ]
    if one.cls in [found for found, _ in possible]:
        return ""
    return _wrong_class(one.cls, *possible[0])


def _wrong_class(recorded: Class, found: Class, why: str) -> str:
    return f"its class should be {titled(found)} ({why}), not {titled(recorded)}"
