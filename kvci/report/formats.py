"""Format the numbers of a comparison for people."""

from kvci.stats.proportion import Interval


def points(share: float) -> str:
    """Return a difference of shares in percentage points."""
    return f"{100 * share:+.2f}"


def interval(found: Interval | None) -> str:
    """Return an interval in percentage points; empty if there is no interval."""
    return "" if found is None else f"{points(found[0])} to {points(found[1])}"


def p_value(p: float) -> str:
    return f"{p:.3f}" if p >= 0.0005 else "below 0.001"


def detectable(effect: float | None) -> str:
    """Return a minimum detectable effect as text."""
    return "not even 100 points" if effect is None else f"{100 * effect:.1f} points"


def confidence(alpha: float) -> str:
    """Return the confidence of the two-sided interval that fits one-sided tests at level alpha."""
    return f"{100 * (1 - 2 * alpha):.4g}%"
