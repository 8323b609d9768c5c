"""Put into words what a comparison claims about its arms."""

from kvci.compare.findings import ArmComparison, Comparison, Inference
from kvci.record.schema import Record
from kvci.report.formats import confidence, detectable, interval, p_value, points
from kvci.stats.decide import Claim

NO_BASELINE = "no record of its baseline"
NO_PAIR = "no valid pair"
RERUN = "targeted rerun"
NOT_ESTIMABLE = "not estimable"
WIDE = 0.2
"""An interval of at least this width, as a share, is quoted in whole points."""


def claim_text(found: Comparison, arm: ArmComparison) -> str:
    """Return the claim, the control arm's result, or the reason why neither exists."""
    if found.withheld:
        return found.withheld
    if not arm.valid.pairs:
        return NO_PAIR
    if arm.control:
        return f"control: {_pairs_that_differ(arm)}"
    margin = "" if found.margin is None else f"{100 * found.margin:g} points"
    if arm.claim == Claim.NON_INFERIOR:
        return f"non-inferior within {margin}"
    if arm.claim == Claim.HARM_WITHIN:
        return f"harm shown, smaller than the margin of {margin}"
    return str(arm.claim)


def without_claim(record: Record) -> str:
    """Return the words that a record without a comparison has in place of a claim."""
    if record.rerun:
        return RERUN
    return NO_BASELINE if record.position else "the baseline"


def headlines(found: Comparison) -> list[str]:
    """Return lines that a person can quote: one line per arm.

    If nothing is inferred, all arms share one line.
    """
    if found.withheld:
        done = "" if found.complete else f"{found.done} of {found.planned} trials done; "
        return [f"{done}{found.withheld}"]
    return [_headline(found, arm) for arm in found.arms]


def _headline(found: Comparison, arm: ArmComparison) -> str:
    inference = arm.valid.inference
    if inference is None:
        return f"{_name(found, arm)}: {NO_PAIR}, no claim"
    if arm.control:
        return f"{_name(found, arm)}: {_pairs_that_differ(arm)}"
    return f"{_name(found, arm)}{_change(found, inference)}: {claim_text(found, arm)}"


def _name(found: Comparison, arm: ArmComparison) -> str:
    """Return the arm's KV type and flags; if two runs have the same arm, its row id."""
    arms = [found.baseline_kv, *(one.kv for one in found.arms)]
    name = arm.kv if arms.count(arm.kv) == 1 else arm.name
    return f"{name} (control)" if arm.control else name


def _pairs_that_differ(arm: ArmComparison) -> str:
    return f"{arm.valid.only_baseline + arm.valid.only_arm} of {arm.valid.pairs} pairs differ"


def _change(found: Comparison, inference: Inference) -> str:
    """Return for example " loses 75 points (90% interval 52 to 88)".

    If the arm gains, the interval has the sign of the gain.
    """
    difference, (low, high) = inference.difference, inference.interval
    digits = 0 if high - low >= WIDE else 1
    while difference and not round(100 * abs(difference), digits):
        digits += 1
    if difference < 0:
        low, high = -high, -low
    sign = "" if low >= 0 else "+"
    limits = (round(100 * limit, digits) + 0.0 for limit in (low, high))  # + 0.0 avoids "-0"
    shown = " to ".join(f"{limit:{sign}.{digits}f}" for limit in limits)
    shown = f"({confidence(found.alpha)} interval {shown})"
    place = "" if found.primary == "resolved" else f" in {found.primary}"
    if not difference:
        return f": no difference seen{place} {shown}"
    size = f"{100 * abs(difference):.{digits}f}"
    unit = "point" if size == "1" else "points"
    return f" {'gains' if difference < 0 else 'loses'} {size} {unit}{place} {shown}"


def inference_cells(found: Comparison, arm: ArmComparison) -> tuple[str, str, str, str]:
    """Return difference, interval, p and minimum detectable effect, or empty cells.

    The cells are empty if nothing is inferred.
    """
    inference = arm.valid.inference
    if inference is None:
        return ("", "", "", "")
    return (
        points(inference.difference),
        f"{interval(inference.interval)} ({confidence(found.alpha)})",
        "" if arm.p_holm is None else p_value(arm.p_holm),
        detectable(inference.minimum_detectable_effect),
    )


def repository_cells(inference: Inference) -> tuple[str, str, str]:
    """Return both intervals by repository and the minimum detectable effect by repository."""
    if inference.repository_95 is None:
        return (NOT_ESTIMABLE, NOT_ESTIMABLE, NOT_ESTIMABLE)
    return (
        interval(inference.repository_95),
        interval(inference.repository_bootstrap_95),
        detectable(inference.repository_minimum_detectable_effect),
    )
