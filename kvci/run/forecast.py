"""Forecast what a specification will run, what the run can show, and what it will cost."""

from dataclasses import replace
from math import isfinite
from pathlib import Path

from kvci.errors import UserError
from kvci.files import Document
from kvci.plan import blocks, select
from kvci.rundir.parts import Run
from kvci.spec import Spec
from kvci.stats.power import (
    POWER,
    Design,
    instances_needed,
    minimum_detectable_effect,
    power,
    power_of_no_harm,
)
from kvci.tasks.dataset import load
from kvci.units import counted, duration

HARMS_POINTS = (2, 5, 10, 15, 20, 30, 50)


class Forecast(Document):
    instances: int
    arms: tuple[str, ...]
    seeds: int
    trials: int
    blocks: int
    shards: tuple[str, ...]
    """The shards for a workflow's matrix: as many as asked for, at most one for each instance."""
    base_rate: float
    icc: float
    alpha: float
    margin: float | None
    minimum_detectable_effect: float | None
    """The smallest harm, as a share, that the run shows with 80 % power.

    This assumes that only one KV arm does harm, so that Holm's correction is Bonferroni's. None if
    the power is below 80 % even for a total loss.
    """
    power_of_harm: dict[str, float]
    """Harm in points -> the chance to show this harm if only one KV arm does harm."""
    power_of_no_harm: float | None
    """The chance to claim non-inferiority of the first KV arm if that arm does no harm.

    Later arms are tested only after that claim. None if there is no margin.
    """
    instances_for_margin: int | None
    """The number of instances that raises `power_of_no_harm` to 80 %.

    None if there is no margin, or if the number is above 100,000.
    """
    hours: float | None
    """Hours on one machine with the specification's slots; None if no speed is known."""
    answer: str
    """What the run can show, in words."""


def forecast(
    spec: Spec,
    base_rate: float,
    icc: float,
    trial_s: float | None = None,
    measured: Path | None = None,
) -> Forecast:
    """Return the forecast for an assumed base rate and intra-class correlation.

    `trial_s` is the time in seconds that one trial needs in its slot. If `measured` is given, the
    time comes from the finished trials in this run folder. Raises UserError if a number is not
    finite, if no trial is finished, or if no instance is selected.
    """
    for name, number in (("--base-rate", base_rate), ("--icc", icc), ("--expected-trial", trial_s)):
        if number is not None and not isfinite(number):
            raise UserError(f"{name} is not a finite number; give a finite number.")
    if measured:
        trial_s = _measured_s(measured)
    whole = spec.model_copy(update={"shard": "1/1"})
    ids = [instance.row.instance_id for instance in load(spec.dataset)]
    count = sum(len(block.instances) for block in blocks(ids, whole))
    # A shard without an instance would never be complete.
    index, asked_count = (int(part) for part in spec.shard.split("/"))
    if index > (shard_count := min(asked_count, count)):
        select(ids, spec)  # this shard would have no instance: raises UserError
    shards = [f"{number}/{shard_count}" for number in range(1, shard_count + 1)]
    planned = [blocks(ids, spec.model_copy(update={"shard": shard})) for shard in shards]
    trials = count * len(spec.arms) * len(spec.seeds)
    tested = sum(arm.kv_type != spec.baseline.kv_type for arm in spec.arms)
    design = Design(count, base_rate, icc, len(spec.seeds), spec.alpha)
    corrected = replace(design, alpha=spec.alpha / max(1, tested))
    detectable = minimum_detectable_effect(corrected)
    harms = [points for points in HARMS_POINTS if points / 100 <= base_rate] if tested else []
    margin, claimed, needed = spec.margin, None, None
    if margin is not None:
        claimed = power_of_no_harm(design, margin)
        needed = instances_needed(lambda n: power_of_no_harm(replace(design, instances=n), margin))
    return Forecast(
        instances=count,
        arms=tuple(arm.id for arm in spec.arms),
        seeds=len(spec.seeds),
        trials=trials,
        blocks=sum(map(len, planned)),
        shards=tuple(shards),
        base_rate=base_rate,
        icc=icc,
        alpha=spec.alpha,
        margin=margin,
        minimum_detectable_effect=detectable,
        power_of_harm={str(points): power(corrected, points / 100) for points in harms},
        power_of_no_harm=claimed,
        instances_for_margin=needed,
        hours=None if trial_s is None else trials * trial_s / spec.slots / 3600,
        answer=_answer(spec, tested, count, base_rate, detectable, claimed, needed),
    )


def _answer(
    spec: Spec,
    tested: int,
    count: int,
    base_rate: float,
    detectable: float | None,
    claimed: float | None,
    needed: int | None,
) -> str:
    resolves = "resolves" if spec.primary == "resolved" else f"reaches {spec.primary} in"
    baseline = f"if the baseline {resolves} {100 * base_rate:.3g}% of the instances"
    if not tested:
        return (
            "This run cannot answer: no arm has another KV type than the baseline; give a --kv "
            "with another KV type."
        )
    if detectable is None:
        return (
            f"This run cannot answer: {baseline}, {counted(count, 'instance')} are too few to show "
            f"even a total loss with {POWER:.0%} power; use a stronger model, easier instances, or "
            "more instances."
        )
    harm = (
        f"Minimum detectable effect: {100 * detectable:.1f} points of harm with {POWER:.0%} power, "
        f"{baseline}."
    )
    if spec.margin is None or claimed is None:
        return harm
    margin = f"the margin of {100 * spec.margin:.1f} points"
    if spec.margin >= base_rate:
        return (
            f"{harm} This run cannot answer for {margin}: even a total loss is within it; give a "
            "lower margin."
        )
    claim = f"non-inferiority of a harmless arm in {claimed:.0%} of cases"
    if claimed < POWER:
        more = "more than 100,000" if needed is None else str(needed)
        return (
            f"{harm} This run cannot answer for {margin}: the run claims {claim}; for {POWER:.0%} "
            f"it needs {more} instances."
        )
    return f"{harm} With {margin}, the run claims {claim}."


def _measured_s(run: Path) -> float:
    """Return the mean seconds of a trial in its slot.

    Raises UserError if no trial is finished, or if another version of kvci must read the run.
    """
    times = [outcome.solve_s for outcome in Run(run).outcomes() if outcome.steps]
    if not times:
        raise UserError(
            f"{run} has no finished trial, so no speed can be measured; give --expected-trial, for "
            "example 3m."
        )
    for part in Run(run).parts:
        _ = part.spec  # refuses a run of a later version
    return sum(times) / len(times)


def _time(hours: float) -> str:
    """Return a time in whole minutes, as people write it: `1h30m`."""
    return duration(60 * max(1, round(60 * hours)))


def lines(found: Forecast) -> list[str]:
    """Return four lines for a person: the trials, the answer, the assumptions, the cost."""
    arms = f"{counted(len(found.arms), 'arm')} ({', '.join(found.arms)})"
    made = [
        f"{counted(found.instances, 'instance')} x {arms} x {counted(found.seeds, 'seed')}: "
        f"{counted(found.trials, 'trial')} in {counted(found.blocks, 'block')}",
        found.answer,
        f"assumed: ICC {found.icc:g}; one-sided tests at {100 * found.alpha:g}%, with Holm's "
        "correction over the KV arms",
    ]
    if found.hours is None:
        made.append("cost: not known; give --expected-trial, for example 3m, or --measured RUN")
    else:
        shards = len(found.shards)
        each = f", or {_time(found.hours / shards)} on each of {shards} machines" * (shards > 1)
        made.append(
            f"cost: {_time(found.hours)} on one machine{each}, plus preflight, server starts and "
            "grading"
        )
    return made
