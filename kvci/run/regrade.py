"""Grade trials again from their stored patches, without a GPU, a model or a server."""

import shutil
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from itertools import chain
from pathlib import Path

from kvci.errors import UserError
from kvci.host import host
from kvci.run.grader import Grader
from kvci.run.sandboxes import Sandboxes, choose
from kvci.run.stop import Stopped, stopping
from kvci.run.summary import summarize
from kvci.run.supplies import waves
from kvci.rundir.directory import RunDirectory, digest_of_log
from kvci.rundir.documents import UNGRADED, Graded, Outcome
from kvci.rundir.parts import Run
from kvci.rundir.settle import settle
from kvci.rundir.trajectory import actions
from kvci.tasks.dataset import by_id, dataset_sha256, load
from kvci.tasks.instance import Instance
from kvci.tasks.row import patched_files
from kvci.taxonomy import Observed, Verdict, classify


def regrade_trial(
    outcome: Outcome,
    directory: RunDirectory,
    instance: Instance,
    grader: Grader,
    prompt: str,
    gold: Graded | None,
    then: Callable[[Outcome], None],
) -> Future[Graded]:
    """Grade the trial's stored patch, write its new outcome, and call `then` with the new outcome.

    If grading fails now and the trial already has a verdict, the old verdict stays, and `then` is
    not called.
    """
    folder = directory.trial(outcome.trial)
    patch = (folder / "patch.diff").read_bytes()
    # The logs of the old verdict stay until there is a new verdict.
    logs = directory.scratch / f"grade-{outcome.arm}-{outcome.instance}-{outcome.seed}"
    observed = Observed(
        exit=outcome.exit,
        verdict=Verdict.NOT_GRADED,
        last_actions=actions(folder / "trajectory.jsonl", prompt, outcome.exit),
        server_failures=outcome.server_failures,
        patched_files=patched_files(patch.decode(errors="replace")),
        gold_files=patched_files(instance.row.patch),
    )

    def write(graded: Graded) -> None:
        cls, why = classify(replace(observed, verdict=graded.verdict))
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
                "doubt": graded.doubt,
            }
        )
        if graded.verdict in UNGRADED and outcome.verdict not in UNGRADED:
            return
        shutil.rmtree(folder / "grade", ignore_errors=True)
        if logs.exists():
            shutil.copytree(logs, folder / "grade")  # another trial may need a copy, too
        changed = changed.model_copy(update={"log_sha256": digest_of_log(folder)})
        changed.write(folder / "outcome.json")
        then(changed)

    return grader.submit(instance, patch, logs, write, gold)


def regrade(
    folder: Path,
    everything: bool,
    say: Callable[[str], None] = print,
    workers: int | None = None,
) -> tuple[list[tuple[Outcome, Outcome]], list[Outcome]]:
    """Return each graded trial before and after, and the trials that were not graded.

    If `everything` is true, all trials that have a patch are graded. Otherwise only the trials
    whose grading failed are graded. `workers` patches are graded at once, by default as many as in
    the run. Images are pulled. A trial is not graded if its image is not available or if the trial
    ran on another machine. Raises UserError if the dataset is not the run's.
    """
    changed, left = [], []
    for part in Run(folder).parts:
        part_changed, part_left = _regrade(part.path, everything, say, workers)
        changed += part_changed
        left += part_left
    return changed, left


def _regrade(
    folder: Path, everything: bool, say: Callable[[str], None], workers: int | None
) -> tuple[list[tuple[Outcome, Outcome]], list[Outcome]]:
    manifest, spec = RunDirectory(folder).manifest, RunDirectory(folder).spec
    instances = by_id(load(spec.dataset, manifest.dataset_revision))
    if dataset_sha256(instances.values()) != manifest.dataset_sha256:
        raise UserError(
            f"The dataset {spec.dataset} changed after {folder} was made; restore the old version "
            "of the dataset."
        )
    kind, _ = choose(spec, (instances[name] for name in manifest.planned))
    with RunDirectory(folder.resolve()) as directory, stopping():
        sandboxes = Sandboxes.of(spec, kind, directory.scratch, manifest.run_id)
        sandboxes.sweep()
        grader = Grader(sandboxes, spec.test_s, workers or spec.grade_workers)
        changed: list[tuple[Outcome, Outcome]] = []
        left = [one for one in directory.outcomes() if one.has_patch]
        left = [one for one in left if everything or one.ungraded]
        foreign = [one for one in left if one.host != host()]
        if foreign:
            say(
                f"Both trials of a pair must be graded on one machine, and {len(foreign)} trials "
                f"of {folder} ran on machine {foreign[0].host}; grade them there"
            )
            left = [one for one in left if one not in foreign]
        ungraded, futures = {one.trial: one for one in left}, []
        ended = False
        try:
            empty = [one for one in left if not one.patch_bytes]  # an empty patch needs no image
            rest = [one for one in left if one.patch_bytes]
            names = {one.instance for one in rest}
            supplied = waves(spec, instances, names, folder, say)
            parts = ([one for one in rest if one.instance in wave] for wave in supplied)
            for part in chain([empty], parts):
                for one in part:
                    gold, then = directory.gold(one.instance), _append_to(changed, one)
                    instance = instances[one.instance]
                    futures.append(
                        regrade_trial(one, directory, instance, grader, spec.prompt, gold, then)
                    )
                for future in futures:
                    future.result()
            ended = True
        except Stopped:
            say("Stopped. The same command continues with the remaining trials.")
        finally:
            grader.close(wait=ended)
            sandboxes.sweep(own=True)
        trials, outcomes = spec.trials_of_arms(manifest.planned), settle(directory.outcomes())
        summarize(manifest.run_id, trials, outcomes).write(directory.path / "summary.json")
    for before, _ in changed:
        ungraded.pop(before.trial)
    return changed, [*ungraded.values(), *foreign]


def _append_to(
    changed: list[tuple[Outcome, Outcome]], before: Outcome
) -> Callable[[Outcome], None]:
    return lambda after: changed.append((before, after))
