"""Grade a run's patches with the official harness, too, and list each difference."""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

from kvci.errors import UserError
from kvci.grade.harness import differences, evaluate
from kvci.plan import Trial
from kvci.run.attempt import time_limit_s
from kvci.run.stop import Stopped, stopping
from kvci.run.supplies import waves
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import TEST_LOG, Outcome
from kvci.rundir.parts import Run
from kvci.tasks.dataset import by_id, load
from kvci.taxonomy import Verdict

UNREPORTED = {Verdict.APPLY_FAILED, Verdict.TEST_TIMEOUT}
"""The harness writes no report for patches with these verdicts."""


def cross_check(folder: Path, say: Callable[[str], None] = print) -> tuple[int, list[str]]:
    """Return the number of trials whose patches the harness graded, and a line for each difference.

    If several trials have the same patch, the harness grades the patch once. If the harness writes
    no report for a patch, and kvci's grading does not explain this, that is a difference. Raises
    UserError if the cross-check is stopped or cannot run.
    """
    try:
        found = [_cross_check(part.path, say) for part in Run(folder).parts]
    except Stopped:
        raise UserError("Stopped. The same command starts the cross-check again.") from None
    return sum(count for count, _ in found), [line for _, lines in found for line in lines]


def _cross_check(folder: Path, say: Callable[[str], None]) -> tuple[int, list[str]]:
    manifest, spec = RunDirectory(folder).manifest, RunDirectory(folder).spec
    instances = by_id(load(spec.dataset, manifest.dataset_revision))
    rows = [one.row for one in instances.values()]
    with RunDirectory(folder.resolve()) as directory, stopping():
        outcomes = [one for one in directory.outcomes() if one.has_patch and one.patch_bytes]
        count, lines, left = 0, [], {one.instance for one in outcomes}
        reports: dict[tuple[str, str], dict[str, Any] | None] = {}
        """(instance, patch) -> its report; None if the harness wrote no report."""
        for wave in waves(spec, instances, set(left), folder, say):
            left -= wave
            for arm, seed in product([arm.id for arm in spec.arms], spec.seeds):
                trials = {
                    one.instance: one
                    for one in outcomes
                    if (one.arm, one.seed) == (arm, seed) and one.instance in wave
                }
                if not trials:
                    continue
                folders = {name: directory.trial(Trial(arm, name, seed)) for name in trials}
                patches = {
                    name: (place / "patch.diff").read_bytes().decode(errors="replace")
                    for name, place in folders.items()
                }
                new = {
                    name: patch for name, patch in patches.items() if (name, patch) not in reports
                }
                limits_s = {name: time_limit_s(spec.test_s, directory.gold(name)) for name in new}
                for limit_s in sorted(set(limits_s.values())):
                    batch = {
                        name: patch for name, patch in new.items() if limits_s[name] == limit_s
                    }
                    made = evaluate(rows, batch, folder / "harness" / arm / str(seed), limit_s)
                    reports |= {(name, patch): made.get(name) for name, patch in batch.items()}
                count += len(patches)
                for name, outcome in trials.items():
                    found = _differences(outcome, folders[name], reports[name, patches[name]])
                    lines += [f"{arm} {name}: {line}" for line in found]
    missing = [
        f"{name}: not cross-checked, because its image is not available" for name in sorted(left)
    ]
    return count, [*lines, *missing]


def _differences(outcome: Outcome, folder: Path, report: dict[str, Any] | None) -> list[str]:
    """Return how the harness's report of a trial's patch differs from kvci's grading."""
    from kvci.grade.patch import RAISED, has_markers  # slow: imports swebench

    log, path = folder / "grade" / TEST_LOG, folder / "grade" / "report.json"
    own: dict[str, Any] = {"resolved": outcome.verdict is Verdict.RESOLVED}
    if path.exists():
        own = json.loads(path.read_text())
    if report is not None:
        return differences(own, report)
    unmarked = log.exists() and not has_markers(log.read_bytes())
    if outcome.verdict not in UNREPORTED and not unmarked and RAISED not in own:
        return ["the harness wrote no report for its patch"]
    return differences({"resolved": outcome.verdict is Verdict.RESOLVED}, {"resolved": False})
