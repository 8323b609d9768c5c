"""A new run of some of a run's instances: to look closer, and never to compare."""

import re
from pathlib import Path

from pydantic import ValidationError

from kvci.errors import UserError
from kvci.files import first_problem
from kvci.rundir.parts import Run
from kvci.rundir.settle import settle
from kvci.spec import Rerun, Spec
from kvci.taxonomy import INFRASTRUCTURE, Class


def rerun_spec(folder: Path, classes: str | None, filter: str | None, errors: bool) -> Spec:
    """The spec of a new run of the trials that match, on the rows that the run had.

    `classes` are names with commas between; `errors` are those of infrastructure. With several
    seeds an instance is run with each that matched anywhere. Raises UserError.
    """
    run = Run(folder)
    manifest, spec = run.manifest, run.spec
    if spec.rerun:
        raise UserError(f"{folder} is a rerun itself; rerun {spec.rerun.of}.")
    wanted = {each.strip() for each in (classes or "").split(",") if each.strip()}
    if unknown := sorted(wanted - set(Class)):
        raise UserError(f"{unknown[0]} is no class; use {', '.join(Class)}.")
    wanted |= set(INFRASTRUCTURE) if errors else set()
    if not wanted and filter is None:
        raise UserError("Say which trials: give --class, --filter or --errors.")
    try:
        chosen = [
            one
            for one in settle(run.outcomes())
            if (not wanted or one.cls in wanted) and re.search(filter or "", one.instance)
        ]
    except re.error as error:
        raise UserError(f"--filter {filter} is not a regular expression: {error}.") from None
    if not chosen:
        raise UserError(f"No trial of {folder} is of that kind.")
    words = [word for word in (",".join(sorted(wanted)), filter) if word]
    of_arms = {
        arm.id: tuple(sorted({one.instance for one in chosen if one.arm == arm.id}))
        for arm in spec.arms
    }
    dataset, revision = spec.dataset, manifest.dataset_revision
    of = Rerun(
        of=manifest.run_id,
        filter=" ".join(words),
        instances=of_arms,
        model_sha256=manifest.model_sha256,
        dataset_sha256=manifest.dataset_sha256,
    )
    again = {
        "dataset": f"{dataset.partition('@')[0]}@{revision}" if revision else dataset,
        "arms": tuple(arm for arm in spec.arms if of_arms[arm.id]),
        "instances": tuple(sorted({one.instance for one in chosen})),
        "seeds": tuple(seed for seed in spec.seeds if seed in {one.seed for one in chosen}),
        "filter": "",
        "limit": None,
        "shard": "1/1",
        "start": None,
        "time_budget_s": None,
        "rerun": of,
    }
    try:
        return Spec.model_validate(spec.model_dump() | again)
    except ValidationError as error:
        raise UserError(f"{folder} cannot be rerun: {first_problem(error)}.") from None
