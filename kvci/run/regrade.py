"""Trials graded again from their stored patches: no GPU, no model, no server."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import replace
from itertools import chain, product
from pathlib import Path
from typing import Any

from kvci.agent.ends import FormatError
from kvci.agent.protocol import PROTOCOLS
from kvci.errors import UserError
from kvci.grade import Graded
from kvci.grade.harness import differences, evaluate
from kvci.host import host
from kvci.plan import Trial
from kvci.run.directory import Manifest, Outcome, RunDirectory, shards
from kvci.run.grading import Grader, limit_s
from kvci.run.sandboxes import Sandboxes, choose, waves
from kvci.run.settle import settle
from kvci.run.stop import Stopped, stopping
from kvci.run.summary import summarize
from kvci.spec import Spec
from kvci.tasks.dataset import load
from kvci.tasks.instance import Instance
from kvci.tasks.row import patched_files
from kvci.taxonomy import LAST_ACTIONS, Class, Evidence, Exit, Verdict, classify

WITHOUT_PATCH = {Exit.NOT_STARTED, Exit.SANDBOX_FAILED, Exit.SERVER_FAILED, Exit.REQUEST_FAILED}
WITHOUT_PATCH |= {Exit.KVCI_FAILED}
FAILED = {Verdict.GRADING_FAILED, Verdict.NOT_GRADED}
UNREPORTED = {Verdict.APPLY_FAILED, Verdict.TEST_TIMEOUT}
"""Of such patches the harness writes no report."""


def ungraded(outcome: Outcome) -> bool:
    """Its patch waits to be graded: infrastructure, or a fault of kvci's, kept it from it."""
    return outcome.verdict in FAILED and can_be(outcome)


def can_be(outcome: Outcome) -> bool:
    """There is a patch to grade again, if only an empty one."""
    return outcome.exit not in WITHOUT_PATCH and outcome.cls is not Class.I0


def again(
    outcome: Outcome,
    directory: RunDirectory,
    instance: Instance,
    grader: Grader,
    prompt: str,
    gold: Graded | None,
    then: Callable[[Outcome], None],
) -> Future[Graded]:
    """Grade the trial's stored patch; its outcome is written anew, and `then` hears of it.

    A verdict that it has stays if grading fails now, and `then` hears nothing.
    """
    folder = directory.trial(Trial(outcome.arm, outcome.instance, outcome.seed))
    patch = (folder / "patch.diff").read_bytes()
    # What proves the verdict that it has stays until there is another.
    place = directory.scratch / f"grade-{outcome.arm}-{outcome.instance}-{outcome.seed}"
    evidence = Evidence(
        exit=outcome.exit,
        verdict=Verdict.NOT_GRADED,
        last_actions=actions(folder / "trajectory.jsonl", prompt, outcome.exit),
        server_failures=outcome.server_failures,
        patched_files=patched_files(patch.decode(errors="replace")),
        gold_files=patched_files(instance.row.patch),
    )

    def write(graded: Graded) -> None:
        cls, why = classify(replace(evidence, verdict=graded.verdict))
        changed = outcome.model_copy(
            update={
                "verdict": graded.verdict,
                "cls": cls,
                "why": why,
                "detail": graded.detail,
                "eval_s": round(graded.eval_s, 3),
                "applies": graded.applies,
                "fail_to_pass": graded.fail_to_pass,
                "pass_to_pass": graded.pass_to_pass,
            }
        )
        if graded.verdict in FAILED and outcome.verdict not in FAILED:
            return
        shutil.rmtree(folder / "grade", ignore_errors=True)
        if place.exists():
            shutil.move(place, folder / "grade")
        changed.write(folder / "outcome.json")
        then(changed)

    return grader.submit(instance, patch, place, write, gold)


def regrade(
    folder: Path, everything: bool, say: Callable[[str], None] = print
) -> tuple[list[tuple[Outcome, Outcome]], list[Outcome]]:
    """Each trial before and after: those that could not be graded, or all that have a patch.

    And those that could not be begun, because their images, which are fetched, cannot be had, or
    because they were on another machine. Raises UserError if the dataset is not the one of the run.
    """
    changed, left = [], []
    for part in shards(folder) or [folder]:
        some, late = _regrade(part, everything, say)
        changed += some
        left += late
    return changed, left


def _regrade(
    folder: Path, everything: bool, say: Callable[[str], None]
) -> tuple[list[tuple[Outcome, Outcome]], list[Outcome]]:
    spec, manifest = Spec.read(folder / "spec.json"), Manifest.read(folder / "manifest.json")
    instances = {one.row.instance_id: one for one in load(spec.dataset, manifest.dataset_revision)}
    if dataset_sha256(instances.values()) != manifest.dataset_sha256:
        raise UserError(f"{spec.dataset} is not what it was when {folder} was made.")
    kind, _ = choose(spec, (instances[name] for name in manifest.planned))
    with RunDirectory(folder.resolve()) as directory, stopping():
        sandboxes = Sandboxes.of(spec, kind, directory.scratch, manifest.run_id)
        sandboxes.sweep()
        grader = Grader(sandboxes, spec.test_s)
        changed: list[tuple[Outcome, Outcome]] = []
        left = [one for one in directory.outcomes() if can_be(one)]
        left = [one for one in left if everything or ungraded(one)]
        foreign = [one for one in left if one.host != host()]
        if foreign:
            say(
                f"{len(foreign)} trials of {folder} were on {foreign[0].host}: grade them there, "
                "so that a pair has one machine"
            )
            left = [one for one in left if one not in foreign]
        late, futures = {(one.arm, one.instance, one.seed): one for one in left}, []
        ended = False
        try:
            empty = [one for one in left if not one.patch_bytes]  # these need no image
            rest = [one for one in left if one.patch_bytes]
            names = {one.instance for one in rest}
            supplied = waves(spec, instances, names, folder, say)
            parts = ([one for one in rest if one.instance in wave] for wave in supplied)
            for some in chain([empty], parts):
                for one in some:
                    gold, heard = _gold(directory, one.instance), _hear(changed, one)
                    instance = instances[one.instance]
                    futures.append(
                        again(one, directory, instance, grader, spec.prompt, gold, heard)
                    )
                for future in futures:
                    future.result()
            ended = True
        except Stopped:
            say("Stopped; the same command goes on with what is left.")
        finally:
            grader.close(wait=ended)
            sandboxes.sweep(own=True)
        trials, outcomes = spec.trials_of_arms(manifest.planned), settle(directory.outcomes())
        summarize(manifest.run_id, trials, outcomes).write(directory.path / "summary.json")
    for before, _ in changed:
        late.pop((before.arm, before.instance, before.seed))
    return changed, [*late.values(), *foreign]


def beside_harness(folder: Path, say: Callable[[str], None] = print) -> tuple[int, list[str]]:
    """How many trials' patches the harness graded too, and a line for each thing that it says
    otherwise. The same patch of several trials it grades once.

    Where it writes no report, kvci must have said that there is none to write. Raises UserError.
    """
    try:
        found = [_beside_harness(part, say) for part in shards(folder) or [folder]]
    except Stopped:
        raise UserError("Stopped; the same command begins the comparison anew.") from None
    return sum(count for count, _ in found), [line for _, lines in found for line in lines]


def _beside_harness(folder: Path, say: Callable[[str], None]) -> tuple[int, list[str]]:
    from kvci.grade.grade import marked  # swebench: seconds

    spec, manifest = Spec.read(folder / "spec.json"), Manifest.read(folder / "manifest.json")
    instances = {one.row.instance_id: one for one in load(spec.dataset, manifest.dataset_revision)}
    rows = [one.row for one in instances.values()]
    with RunDirectory(folder.resolve()) as directory, stopping():
        outcomes = [one for one in directory.outcomes() if can_be(one) and one.patch_bytes]
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
                limits = {name: limit_s(spec.test_s, _gold(directory, name)) for name in new}
                for limit in sorted(set(limits.values())):
                    some = {name: patch for name, patch in new.items() if limits[name] == limit}
                    reports = evaluate(rows, some, folder / "harness" / arm / str(seed), limit)
                    known |= {(name, patch): reports.get(name) for name, patch in some.items()}
                count += len(patches)
                for name, outcome in trials.items():
                    report = known[name, patches[name]]
                    log = places[name] / "grade" / "test_output.txt"
                    unmarked = log.exists() and not marked(log.read_bytes())
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


def _gold(directory: RunDirectory, name: str) -> Graded | None:
    """The gold patch's grading on this machine, if it resolved."""
    known = directory.preflight(name) / "graded.json"
    return resolved(Graded.read(known)) if known.exists() else None


def resolved(gold: Graded | None) -> Graded | None:
    """The gold patch's grading, if it says something of the time that the tests take."""
    return gold if gold and gold.verdict is Verdict.RESOLVED else None


def dataset_sha256(instances: Iterable[Instance]) -> str:
    digest = hashlib.sha256()
    for instance in instances:
        digest.update(instance.row.model_dump_json().encode())
    return digest.hexdigest()


def _hear(changed: list[tuple[Outcome, Outcome]], before: Outcome) -> Callable[[Outcome], None]:
    return lambda after: changed.append((before, after))


def answers(trajectory: Path) -> list[dict[str, Any]]:
    """The entries of a conversation that hold what the model said."""
    entries = map(json.loads, trajectory.read_text().splitlines())
    return [entry for entry in entries if "step" in entry]


def read(steps: list[dict[str, Any]], prompt: str, ended: Exit) -> tuple[list[str], int]:
    """The actions as the conversation read them, and how many answers were malformed."""
    if steps and steps[-1]["cut"] and ended in (Exit.ANSWER_LIMIT, Exit.CONTEXT_OVERFLOW):
        steps = steps[:-1]  # it ended the conversation, and was never read
    found, malformed = [], 0
    for entry in steps:
        try:
            found.append(PROTOCOLS[prompt].action(entry["message"]))
        except FormatError:
            malformed += 1
    return found, malformed


def actions(trajectory: Path, prompt: str, ended: Exit) -> tuple[str, ...]:
    """The last things that the model did."""
    found, _ = read(answers(trajectory), prompt, ended)
    return tuple(found[-LAST_ACTIONS:])
