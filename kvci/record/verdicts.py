"""The verdicts of a run, recomputed from the logs of its tests and the dataset's own rows."""

from collections.abc import Iterator
from pathlib import Path

from kvci.errors import UserError
from kvci.grade.grade import counts, marked, report
from kvci.plan import Trial
from kvci.run.directory import Manifest, Outcome, RunDirectory, shards
from kvci.run.regrade import dataset_sha256
from kvci.spec import Spec
from kvci.tasks.dataset import NAMED, load
from kvci.tasks.row import Row
from kvci.taxonomy import Verdict

TESTED = {Verdict.RESOLVED, Verdict.TESTS_FAIL, Verdict.TESTS_BROKEN, Verdict.SYNTAX_ERROR}
"""Of such a verdict there is a log; the others need the patch to be applied again."""


def unlike(run: Path) -> list[str]:
    """A line for each trial whose verdict its tests' log does not give.

    Raises UserError if the dataset is not one that everybody has: the calibration suite, or one of
    the hub's that has a short name; a file, or a repository of anybody's, proves nothing.
    """
    return [line for part in shards(run) or [run] for line in _unlike(part)]


def _unlike(run: Path) -> Iterator[str]:
    spec, manifest = Spec.read(run / "spec.json"), Manifest.read(run / "manifest.json")
    rows = _rows(spec.dataset, manifest)
    directory = RunDirectory(run)
    for one in directory.outcomes():
        folder = directory.trial(Trial(one.arm, one.instance, one.seed))
        if one.verdict in TESTED and (said := _said(rows[one.instance], one, folder)):
            yield f"{one.arm}, {one.instance}, seed {one.seed}: {said}"


def _rows(dataset: str, manifest: Manifest) -> dict[str, Row]:
    name = dataset.partition("@")[0]
    if dataset.partition(":")[0] != "calibration" and name not in {*NAMED, *NAMED.values()}:
        raise UserError(f"the rows of {dataset} are not had here")
    instances = load(dataset, manifest.dataset_revision)
    if dataset_sha256(instances) != manifest.dataset_sha256:
        raise UserError(f"{dataset} is not what the run had")
    rows = {one.row.instance_id: one.row for one in instances}
    if unknown := sorted(set(manifest.planned) - rows.keys()):
        raise UserError(f"{unknown[0]} is no instance of {dataset}")
    return rows


def _said(row: Row, one: Outcome, folder: Path) -> str:
    """How the log of a trial's tests differs from its outcome; empty if it does not."""
    log, patch = folder / "grade" / "test_output.txt", folder / "patch.diff"
    if not (log.exists() and patch.exists()):
        return f"{one.verdict}, without a log of its tests"
    if not marked(log.read_bytes()):
        return "" if one.verdict is Verdict.TESTS_FAIL else f"{one.verdict}, and no test ended"
    found = report(row, patch.read_bytes(), log)
    resolved, tests = bool(found.get("resolved")), counts(found)
    if resolved != (one.verdict is Verdict.RESOLVED):
        return f"{one.verdict}, and its tests say {'resolved' if resolved else 'not resolved'}"
    if tests != (one.fail_to_pass, one.pass_to_pass):
        return f"it counts {one.fail_to_pass} and {one.pass_to_pass} tests, and its log {tests}"
    return ""
