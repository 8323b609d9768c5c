"""Make the specification of a targeted rerun: it runs some instances of a run again."""

import re
from pathlib import Path

from pydantic import ValidationError

from kvci.errors import UserError
from kvci.problems import first_problem
from kvci.rundir.parts import Run
from kvci.rundir.settle import settle
from kvci.spec import Rerun, Spec
from kvci.taxonomy import INFRASTRUCTURE, Class, titled


def rerun_spec(folder: Path, classes: str | None, filter: str | None, errors: bool) -> Spec:
    """Return the specification of a run that repeats the matching trials of an old run.

    The new run uses the dataset rows of the old run. `classes` are class codes separated by commas;
    `errors` adds the infrastructure classes. Each selected instance runs with every seed that any
    selected trial has. A rerun is never compared. Raises UserError if an option is not valid, if no
    trial matches, or if the old run is a rerun itself.
    """
    run = Run(folder)
    manifest, spec = run.manifest, run.spec
    if spec.rerun:
        raise UserError(f"{folder} is a rerun itself; rerun the run {spec.rerun.of}.")
    wanted = {each.strip() for each in (classes or "").split(",") if each.strip()}
    if unknown := sorted(wanted - set(Class)):
        known = ", ".join(titled(cls) for cls in Class)
        raise UserError(f"{unknown[0]} is not a class; give codes of these classes: {known}.")
    wanted |= set(INFRASTRUCTURE) if errors else set()
    if not wanted and filter is None:
        raise UserError("No trials are selected; give --class, --filter or --errors.")
    try:
        chosen = [
            one
            for one in settle(run.outcomes())
            if (not wanted or one.cls in wanted) and re.search(filter or "", one.instance)
        ]
    except re.error as error:
        raise UserError(
            f"--filter {filter} is not a regular expression ({error}); correct it."
        ) from None
    if not chosen:
        raise UserError(f"No trial of {folder} matches; widen --class or --filter.")
    words = [word for word in (",".join(sorted(wanted)), filter) if word]
    instances_by_arm = {
        arm.id: tuple(sorted({one.instance for one in chosen if one.arm == arm.id}))
        for arm in spec.arms
    }
    dataset, revision = spec.dataset, manifest.dataset_revision
    rerun = Rerun(
        of=manifest.run_id,
        filter=" ".join(words),
        instances=instances_by_arm,
        model_sha256=manifest.model_sha256,
        dataset_sha256=manifest.dataset_sha256,
    )
    changes = {
        "dataset": f"{dataset.partition('@')[0]}@{revision}" if revision else dataset,
        "arms": tuple(arm for arm in spec.arms if instances_by_arm[arm.id]),
        "instances": tuple(sorted({one.instance for one in chosen})),
        "seeds": tuple(seed for seed in spec.seeds if seed in {one.seed for one in chosen}),
        "filter": "",
        "limit": None,
        "shard": "1/1",
        "start": None,
        "time_budget_s": None,
        "rerun": rerun,
    }
    try:
        return Spec.model_validate(spec.model_dump() | changes)
    except ValidationError as error:
        raise UserError(
            f"{folder} cannot be rerun ({first_problem(error)}); start a new run instead."
        ) from None
