"""What a reader must know before a verdict."""

from collections.abc import Iterable, Sequence

from kvci.compare.endpoint import ENDPOINTS
from kvci.compare.findings import ArmComparison
from kvci.compare.pairs import alone, everything
from kvci.compare.side import ROTATION, UNKNOWN, Side, missing_arms, quantized
from kvci.stats.paired import mcnemar_mid_p

MATCHED = "the trials are matched, not paired: other runs, hosts or days stand between them"
ESSENTIAL = ("host", "server build", "dataset sha256", "temperature", ROTATION)
"""Without these two runs cannot be held beside each other."""


def cautions(
    sides: Sequence[Side], paired: bool, arms: Sequence[ArmComparison], alpha: float
) -> Iterable[str]:
    """The control arm's come first, then what differs between the sides."""
    for arm in arms:
        if not arm.control:
            continue
        if arm.identical:
            yield f"control {arm.kv} identical, noise floor not measured"
        elif beyond_chance(arm, alpha):
            yield (
                f"the control arm {arm.kv} differs from the baseline by more than chance: "
                "whatever made it differ may have made the others"
            )
    if missing := missing_arms(sides):
        yield f"arms of the run are not named ({', '.join(missing)}), so nothing is inferred"
    value = ENDPOINTS[sides[0].primary]
    for side in sides:
        unknown = sum(value(seen) is None for seen in side.trials.values())
        if unknown:
            yield f"{side.kv}: of {unknown} trials nobody knows whether they are {sides[0].primary}"
    if not paired:
        yield MATCHED
    for side, arm in zip(sides[1:], arms, strict=True):
        yield from _losses(sides[0], side, arm, alpha)
    yield from _settings(sides, paired)
    if any(not side.verified for side in sides):
        yield "unverified: no server log proves what some of these trials ran"


def _losses(baseline: Side, side: Side, arm: ArmComparison, alpha: float) -> Iterable[str]:
    """What one side lost to infrastructure, or never had, and the other has."""
    if arm.valid.inference is None:
        return
    if where := alone(baseline, side):
        shown = ", ".join(f"{count} {place}" for place, count in where.items())
        yield f"{side.kv} has not the same instances as the baseline: {shown}"
    some = everything(baseline, side)
    lost = (
        sum(other.valid and not one.valid for _, one, other in some),
        sum(one.valid and not other.valid for _, one, other in some),
    )
    if mcnemar_mid_p(*lost) < alpha:
        yield (
            f"infrastructure ended {lost[1]} trials of {side.kv} alone, and {lost[0]} of the "
            "baseline alone: more than chance, so look at all instances beside the valid pairs"
        )


def _settings(sides: Sequence[Side], paired: bool) -> Iterable[str]:
    """What is not the same, and what nobody knows to be the same.

    Only quantized caches are rotated, so that the others differ in nothing there.
    """
    labels = dict.fromkeys(label for side in sides for label in side.settings)
    if not paired:
        labels |= dict.fromkeys(ESSENTIAL)
    unknown = []
    for label in labels:
        some = [side for side in sides if label != ROTATION or quantized(side.kv)]
        values = [side.settings.get(label, (UNKNOWN,)) for side in some]
        if any(UNKNOWN in value for value in values) and not paired:
            unknown.append(label)
        elif len(set(values)) > 1:
            shown = "; ".join(
                f"{side.kv}: {', '.join(value)}" for side, value in zip(some, values, strict=True)
            )
            yield f"not the same {label}: {shown}"
    if unknown:
        yield f"not known of every side: {', '.join(unknown)}"


def beyond_chance(arm: ArmComparison, alpha: float) -> bool:
    """True if the arm differs from the baseline, in either direction, at level alpha."""
    found = arm.valid.inference
    return found is not None and 2 * min(found.p_harm, 1 - found.p_harm) < alpha
