"""A run's patches graded by the official harness too, and each difference."""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

from kvci.errors import UserError
from kvci.grade.harness import differences, evaluate
from kvci.plan import Trial
from kvci.run.attempt import limit_s
from kvci.run.stop import Stopped, stopping
from kvci.run.supplies import waves
from kvci.rundir.directory import RunDirectory
from kvci.rundir.parts import Run
from kvci.tasks.dataset import load
from kvci.taxonomy import Verdict

UNREPORTED = {Verdict.APPLY_FAILED, Verdict.TEST_TIMEOUT}
"""The harness writes no report of such patches."""


def beside_harness(folder: Path, say: Callable[[str], None] = print) -> tuple[int, list[str]]:
    """How many trials' patches the harness graded too, and a line for each thing that it says
    otherwise. The same patch of several trials it grades once.

    Where it writes no report, kvci must have said that there is none to write. Raises UserError.
    """
    try:
        found = [_beside_harness(part.path, say) for part in Run(folder).parts]
    except Stopped:
        raise UserError("Stopped; the same command begins the comparison anew.") from None
    return sum(count for count, _ in found), [line for _, lines in found for line in lines]


def _beside_harness(folder: Path, say: Callable[[str], None]) -> tuple[int, list[str]]:
    from kvci.grade.patch import has_markers  # swebench: seconds

    spec, manifest = RunDirectory(folder).spec, RunDirectory(folder).manifest
    instances = {one.row.instance_id: one for one in load(spec.dataset, manifest.dataset_revision)}
    rows = [one.row for one in instances.values()]
    with RunDirectory(folder.resolve()) as directory, stopping():
        outcomes = [one for one in directory.outcomes() if one.has_patch and one.patch_bytes]
        count, lines, left = 0, [], {one.instance for one in outcomes}
        known: dict[tuple[str, str], dict[str, Any] | None] = {}
        for wave in waves(spec, instances, set(left), folder, say):
            left -= wave
            for arm, seed in product([arm.id for arm in spec.arms], spec.seeds):
                mine_of = (one for one in outcomes if (one.arm, one.seed) == (arm, seed))
                trials = {one.instance: one for one in mine_of if one.instance in wave}
                if not trials:
                    continue
                places = {name: directory.trial(Trial(arm, name, seed)) for name in trials}
                patches = {
                    name: (place / "patch.diff").read_bytes().decode(errors="replace")
                    for name, place in places.items()
                }
                new = {name: patch for name, patch in patches.items() if (name, patch) not in known}
                limits = {name: limit_s(spec.test_s, directory.gold(name)) for name in new}
                for limit in sorted(set(limits.values())):
                    some = {name: patch for name, patch in new.items() if limits[name] == limit}
                    reports = evaluate(rows, some, folder / "harness" / arm / str(seed), limit)
                    known |= {(name, patch): reports.get(name) for name, patch in some.items()}
                count += len(patches)
                for name, outcome in trials.items():
                    report = known[name, patches[name]]
                    log = places[name] / "grade" / "test_output.txt"
                    unmarked = log.exists() and not has_markers(log.read_bytes())
                    if report is None and outcome.verdict not in UNREPORTED and not unmarked:
                        lines.append(f"{arm} {name}: the harness did not grade it")
                        continue
                    theirs = report or {"resolved": False}
                    mine = {"resolved": outcome.verdict is Verdict.RESOLVED}
                    graded = places[name] / "grade" / "report.json"
                    if report is not None and graded.exists():
                        mine = json.loads(graded.read_text())
                    lines += [f"{arm} {name}: {line}" for line in differences(mine, theirs)]
    return count, [*lines, *(f"{name}: its image is not here" for name in sorted(left))]
