"""What a spec will run, what it can show and what it will cost, before it is run."""

from dataclasses import replace
from math import isfinite
from pathlib import Path

from kvci.errors import UserError
from kvci.files import Document
from kvci.plan import blocks
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

HARMS_POINTS = (2, 5, 10, 15, 20, 30, 50)


class Forecast(Document):
    instances: int
    arms: tuple[str, ...]
    seeds: int
    trials: int
    blocks: int
    shards: tuple[str, ...]
    """For a workflow's matrix; as many as are asked for, if there is an instance for each."""
    base_rate: float
    icc: float
    alpha: float
    margin: float | None
    smallest_effect: float | None
    """The harm shown with 80 % power where all KV arms but one are harmless, so that Holm's
    correction is Bonferroni's; None if not even a total loss would be."""
    power_of_harm: dict[str, float]
    """Harm in points -> the chance to show it, of an arm alone in doing any."""
    power_of_no_harm: float | None
    """The chance to claim non-inferiority of the first KV arm, if it is harmless; the arms after it
    are asked only if it is."""
    instances_for_margin: int | None
    """With which that chance is 80 %; None without a margin, or where 100,000 are too few."""
    hours: float | None
    """Of one machine, with the spec's slots; None where no speed is known."""
    answer: str
    """What can be said of the question, plainly."""


def forecast(
    spec: Spec,
    base_rate: float,
    icc: float,
    trial_s: float | None = None,
    measured: Path | None = None,
) -> Forecast:
    """`trial_s` are the seconds of one trial in its slot, or `measured` a run to take them from.

    Raises UserError.
    """
    for name, number in (("--base-rate", base_rate), ("--icc", icc), ("--trial-s", trial_s)):
        if number is not None and not isfinite(number):
            raise UserError(f"{name} is no number; give one.")
    if measured:
        trial_s = _measured_s(measured)
    whole = spec.model_copy(update={"shard": "1/1"})
    ids = [instance.row.instance_id for instance in load(spec.dataset)]
    count = sum(len(block.instances) for block in blocks(ids, whole))
    divided = min(int(spec.shard.split("/")[1]), count)  # a shard without an instance never ends
    shards = [f"{number}/{divided}" for number in range(1, divided + 1)]
    planned = [blocks(ids, spec.model_copy(update={"shard": shard})) for shard in shards]
    trials = count * len(spec.arms) * len(spec.seeds)
    tested = sum(arm.kv_type != spec.baseline.kv_type for arm in spec.arms)
    design = Design(count, base_rate, icc, len(spec.seeds), spec.alpha)
    corrected = replace(design, alpha=spec.alpha / max(1, tested))
    effect = minimum_detectable_effect(corrected)
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
        smallest_effect=effect,
        power_of_harm={str(points): power(corrected, points / 100) for points in harms},
        power_of_no_harm=claimed,
        instances_for_margin=needed,
        hours=None if trial_s is None else trials * trial_s / spec.slots / 3600,
        answer=_answer(spec, tested, count, base_rate, effect, claimed, needed),
    )


def _answer(
    spec: Spec,
    tested: int,
    count: int,
    base_rate: float,
    effect: float | None,
    claimed: float | None,
    needed: int | None,
) -> str:
    does = "resolves" if spec.primary == "resolved" else f"reaches {spec.primary} in"
    if not tested:
        return "It cannot answer: no arm has another KV type than the baseline; give a second --kv."
    if effect is None:
        return (
            f"It cannot answer: where the baseline {does} {base_rate:.1%}, {count} instances "
            f"would not even show a total loss with {POWER:.0%} power; take a stronger model, "
            "easier instances, or more of them."
        )
    harm = (
        f"It shows harm of {100 * effect:.1f} points or more with {POWER:.0%} power, where the "
        f"baseline {does} {base_rate:.1%}; smaller harm less often."
    )
    if spec.margin is None or claimed is None:
        return harm
    margin = f"the margin of {100 * spec.margin:.1f} points"
    if spec.margin >= base_rate:
        return f"{harm} It cannot answer for {margin}: a total loss would be within it; lower it."
    if claimed < POWER:
        more = "over 100,000" if needed is None else str(needed)
        return (
            f"{harm} It cannot answer for {margin}: of an arm that does no harm it would say so in "
            f"{claimed:.0%} of the cases; {more} instances would in {POWER:.0%}."
        )
    return f"{harm} Of an arm that does no harm it says, for {margin}, so in {claimed:.0%}."


def _measured_s(run: Path) -> float:
    """The mean time of a trial in its slot."""
    times = [outcome.solve_s for outcome in Run(run).outcomes() if outcome.steps]
    if not times:
        raise UserError(f"{run} has no finished trial to take a speed from; give --trial-s.")
    return sum(times) / len(times)


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def lines(found: Forecast) -> list[str]:
    """For a person."""
    arms = f"{_count(len(found.arms), 'arm')} ({', '.join(found.arms)})"
    made = [
        f"{_count(found.instances, 'instance')} x {arms} x {_count(found.seeds, 'seed')}: "
        f"{_count(found.trials, 'trial')} in {_count(found.blocks, 'block')}",
        found.answer,
        f"assumed: ICC {found.icc:g}, {100 * found.alpha:g} % one-sided, Holm over the KV arms",
    ]
    if found.hours is None:
        made.append("cost: not known; give --trial-s, or --measured with an earlier run's folder")
    else:
        shards = len(found.shards)
        each = f", {found.hours / shards:.1f} h on each of {shards}" if shards > 1 else ""
        made.append(
            f"cost: {found.hours:.3g} h of one machine{each}; grading, preflight and the starts of "
            "servers come on top"
        )
    return made
