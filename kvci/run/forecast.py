"""What a spec will run, what it can show and what it will cost, before it is run."""

from pathlib import Path

from kvci.errors import UserError
from kvci.files import Document
from kvci.plan import blocks
from kvci.run.directory import RunDirectory
from kvci.spec import Spec
from kvci.stats.power import POWER, Design, instances_needed, smallest_effect
from kvci.tasks.dataset import load


class Forecast(Document):
    instances: int
    arms: tuple[str, ...]
    seeds: int
    trials: int
    blocks: int
    shards: tuple[str, ...]
    """For a workflow's matrix."""
    base_rate: float
    icc: float
    margin: float | None
    smallest_effect: float | None
    """The harm shown with 80 % power where all KV arms but one are harmless, so that Holm's
    correction is Bonferroni's; None if not even a total loss would be."""
    instances_for_margin: int | None
    """With which harm of the margin's size would be shown; None without a margin, or above the
    base rate."""
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
    if measured:
        trial_s = _measured_s(measured)
    whole = spec.model_copy(update={"shard": "1/1"})
    ids = [instance.row.instance_id for instance in load(spec.dataset)]
    planned = blocks(ids, whole)
    count = sum(len(block.instances) for block in planned)
    trials = count * len(spec.arms) * len(spec.seeds)
    tested = sum(arm.kv_type != spec.baseline.kv_type for arm in spec.arms)
    design = Design(count, base_rate, icc, len(spec.seeds), spec.alpha / max(1, tested))
    effect = smallest_effect(design)
    margin, needed = spec.margin, None
    if margin is not None and margin <= base_rate:
        needed = instances_needed(design, margin)
    shards = int(spec.shard.split("/")[1])
    return Forecast(
        instances=count,
        arms=tuple(arm.id for arm in spec.arms),
        seeds=len(spec.seeds),
        trials=trials,
        blocks=len(planned),
        shards=tuple(f"{number}/{shards}" for number in range(1, shards + 1)),
        base_rate=base_rate,
        icc=icc,
        margin=margin,
        smallest_effect=effect,
        instances_for_margin=needed,
        hours=None if trial_s is None else trials * trial_s / spec.slots / 3600,
        answer=_answer(spec, count, base_rate, effect, needed),
    )


def _answer(
    spec: Spec, count: int, base_rate: float, effect: float | None, needed: int | None
) -> str:
    if len(spec.arms) < 2:
        return "It cannot answer: there is no arm beside the baseline; give a second --kv."
    if effect is None:
        return (
            f"It cannot answer: where the baseline resolves {base_rate:.1%}, {count} instances "
            f"would not even show a total loss with {POWER:.0%} power; take a stronger model, "
            "easier instances, or more of them."
        )
    if spec.margin is not None and effect > spec.margin:
        more = "" if needed is None else f"; {needed} instances would"
        return (
            f"It cannot answer for the margin of {100 * spec.margin:.1f} points: the smallest harm "
            f"that it shows with {POWER:.0%} power is {100 * effect:.1f} points{more}."
        )
    return (
        f"It shows harm of {100 * effect:.1f} points or more with {POWER:.0%} power, where the "
        f"baseline resolves {base_rate:.1%}; smaller harm will be inconclusive."
    )


def _measured_s(run: Path) -> float:
    """The mean time of a trial in its slot."""
    times = [outcome.solve_s for outcome in RunDirectory(run).outcomes() if outcome.steps]
    if not times:
        raise UserError(f"{run} has no finished trial to take a speed from; give --trial-s.")
    return sum(times) / len(times)


def lines(found: Forecast) -> list[str]:
    """For a person."""
    arms = ", ".join(found.arms)
    made = [
        f"{found.instances} instances x {len(found.arms)} arms ({arms}) x {found.seeds} seeds: "
        f"{found.trials} trials in {found.blocks} blocks",
        found.answer,
    ]
    if found.hours is None:
        made.append("cost: not known; give --trial-s, or --measured with an earlier run's folder")
    else:
        shards = len(found.shards)
        each = f", {found.hours / shards:.1f} h on each of {shards}" if shards > 1 else ""
        made.append(f"cost: {found.hours:.1f} h of one machine{each}")
    return made
