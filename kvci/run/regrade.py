"""Trials graded again from their stored patches: no GPU, no model, no server."""

import shutil
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from itertools import chain
from pathlib import Path

from kvci.errors import UserError
from kvci.host import host
from kvci.plan import Trial
from kvci.run.grader import Grader
from kvci.run.sandboxes import Sandboxes, choose
from kvci.run.stop import Stopped, stopping
from kvci.run.summary import summarize
from kvci.run.supplies import waves
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import UNGRADED, Graded, Outcome
from kvci.rundir.parts import Run
from kvci.rundir.settle import settle
from kvci.rundir.trajectory import actions
from kvci.tasks.dataset import dataset_sha256, load
from kvci.tasks.instance import Instance
from kvci.tasks.row import patched_files
from kvci.taxonomy import Observed, Verdict, classify


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
    evidence = Observed(
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
        if graded.verdict in UNGRADED and outcome.verdict not in UNGRADED:
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
    for part in Run(folder).parts:
        some, late = _regrade(part.path, everything, say)
        changed += some
        left += late
    return changed, left


def _regrade(
    folder: Path, everything: bool, say: Callable[[str], None]
) -> tuple[list[tuple[Outcome, Outcome]], list[Outcome]]:
    spec, manifest = RunDirectory(folder).spec, RunDirectory(folder).manifest
    instances = {one.row.instance_id: one for one in load(spec.dataset, manifest.dataset_revision)}
    if dataset_sha256(instances.values()) != manifest.dataset_sha256:
        raise UserError(f"{spec.dataset} is not what it was when {folder} was made.")
    kind, _ = choose(spec, (instances[name] for name in manifest.planned))
    with RunDirectory(folder.resolve()) as directory, stopping():
        sandboxes = Sandboxes.of(spec, kind, directory.scratch, manifest.run_id)
        sandboxes.sweep()
        grader = Grader(sandboxes, spec.test_s)
        changed: list[tuple[Outcome, Outcome]] = []
        left = [one for one in directory.outcomes() if one.has_patch]
        left = [one for one in left if everything or one.ungraded]
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
                    gold, heard = directory.gold(one.instance), _hear(changed, one)
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


def _hear(changed: list[tuple[Outcome, Outcome]], before: Outcome) -> Callable[[Outcome], None]:
    return lambda after: changed.append((before, after))
