"""Make the warnings that a reader needs before a claim."""

from collections.abc import Iterable, Sequence

from kvci.compare.endpoint import ENDPOINTS
from kvci.compare.findings import ArmComparison
from kvci.compare.pairs import all_pairs, unpaired_trials
from kvci.compare.side import NOT_SHOWN, ROTATION, Side, missing_arms, quantized
from kvci.stats.paired import mcnemar_mid_p
from kvci.taxonomy import DOUBTFUL

MATCHED = "the trials are matched, not paired: they come from different runs, hosts or days"
ESSENTIAL = ("host", "server build", "dataset sha256", "temperature", ROTATION)
"""If one of these settings is unknown, the comparison of two runs has a warning."""


def cautions(
    sides: Sequence[Side], paired: bool, arms: Sequence[ArmComparison], alpha: float
) -> Iterable[str]:
    """Yield warnings about the control arm first, then about differences between the sides."""
    for arm in arms:
        if not arm.control:
            continue
        if arm.identical:
            yield (
                f"the control arm {arm.kv} gives the same answers as the baseline, so the noise "
                "floor is not measured"
            )
        elif beyond_chance(arm, alpha):
            yield (
                f"the control arm {arm.kv} differs from the baseline by more than chance; the "
                "same cause may affect the other arms"
            )
    if missing := missing_arms(sides):
        yield f"arms of the run are left out ({', '.join(missing)}), so nothing is inferred"
    value = ENDPOINTS[sides[0].primary]
    for side in sides:
        unknown = sum(value(trial) is None for trial in side.trials.values())
        if unknown:
            yield f"{side.kv}: {sides[0].primary} is unknown for {unknown} trials"
        if doubtful := sum(bool(one.resolved and one.doubt) for one in side.trials.values()):
            yield f"{side.kv}: {doubtful} resolved trials whose {DOUBTFUL}"
    if not paired:
        yield MATCHED
    for side, arm in zip(sides[1:], arms, strict=True):
        yield from _losses(sides[0], side, arm, alpha)
    yield from _settings([side for side in sides if side.trials], paired)
    if any(not side.verified for side in sides):
        yield "some trials are unverified: no server log proves their configuration"


def _losses(baseline: Side, side: Side, arm: ArmComparison, alpha: float) -> Iterable[str]:
    """Yield warnings about trials that only one side has.

    Also yield a warning about trials that infrastructure ended on only one side.
    """
    if arm.valid.inference is None:
        return
    if counts := unpaired_trials(baseline, side):
        shown = ", ".join(f"{count} {where}" for where, count in counts.items())
        yield f"{side.kv} and the baseline have different trials: {shown}"
    pairs = all_pairs(baseline, side)
    lost = (
        sum(other.valid and not one.valid for _, one, other in pairs),
        sum(one.valid and not other.valid for _, one, other in pairs),
    )
    if mcnemar_mid_p(*lost) < alpha:
        yield (
            f"infrastructure ended {lost[1]} trials only in {side.kv} and {lost[0]} only in the "
            "baseline, which is more than chance: look at all instances, not only at valid pairs"
        )


def _settings(sides: Sequence[Side], paired: bool) -> Iterable[str]:
    """Yield warnings about settings that differ, or that are not known for all sides.

    A side without trials has no server log yet, so it must not be among `sides`. Only quantized
    caches are rotated, so rotation is compared only between sides with quantized caches.
    """
    if len(sides) < 2:
        return
    labels = dict.fromkeys(label for side in sides for label in side.settings)
    if not paired:
        labels |= dict.fromkeys(ESSENTIAL)
    unknown = []
    kvs = [side.kv for side in sides]
    for label in labels:
        affected = [side for side in sides if label != ROTATION or quantized(side.kv)]
        values = [side.settings.get(label, (NOT_SHOWN,)) for side in affected]
        if any(NOT_SHOWN in value for value in values) and not paired:
            unknown.append(label)
        elif len(set(values)) > 1:
            shown = "; ".join(
                f"{side.kv if kvs.count(side.kv) == 1 else side.name}: {', '.join(value)}"
                for side, value in zip(affected, values, strict=True)
            )
            yield f"different {label}: {shown}"
    if unknown:
        yield f"not known for all sides: {', '.join(unknown)}"


def beyond_chance(arm: ArmComparison, alpha: float) -> bool:
    """True if the arm differs from the baseline, in either direction, at level alpha."""
    found = arm.valid.inference
    return found is not None and 2 * min(found.p_harm, 1 - found.p_harm) < alpha
