"""What a reader must know before a verdict."""

from collections.abc import Iterable, Sequence

from kvci.compare.evidence import ArmComparison
from kvci.compare.side import NOT_SHOWN, Side, missing_arms

MATCHED = "the trials are matched, not paired: other runs, hosts or days stand between them"


def cautions(
    sides: Sequence[Side], paired: bool, arms: Sequence[ArmComparison], alpha: float
) -> Iterable[str]:
    """The control arm's come first, then what differs between the sides.

    An arm of a run that lacks a setting differs in nothing: only quantized caches are rotated.
    """
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
    if not paired:
        yield MATCHED
    labels = dict.fromkeys(label for side in sides for label in side.settings)
    for label in labels:
        values = [side.settings.get(label, NOT_SHOWN) for side in sides]
        met = [value for value in values if not (paired and value == NOT_SHOWN)]
        if len(set(met)) > 1:
            shown = "; ".join(
                f"{side.kv}: {', '.join(value)}" for side, value in zip(sides, values, strict=True)
            )
            yield f"not the same {label}: {shown}"
    if any(not side.verified for side in sides):
        yield "unverified: no server log proves what some of these trials ran"


def beyond_chance(arm: ArmComparison, alpha: float) -> bool:
    """True if the arm differs from the baseline, in either direction, at level alpha."""
    found = arm.valid.inference
    return found is not None and 2 * min(found.p_harm, 1 - found.p_harm) < alpha
