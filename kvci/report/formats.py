"""Numbers of a comparison, formatted for people."""

from kvci.stats.proportion import Interval


def points(share: float) -> str:
    """A difference of shares, in percentage points."""
    return f"{100 * share:+.2f}"


def interval(found: Interval | None) -> str:
    """In percentage points; empty without an interval."""
    return "" if found is None else f"{points(found[0])} to {points(found[1])}"


def p_value(p: float) -> str:
    return f"{p:.3f}" if p >= 0.0005 else "below 0.001"


def detectable(effect: float | None) -> str:
    """A minimum detectable effect."""
    return "not even 100 points" if effect is None else f"{100 * effect:.1f} points"


def confidence(alpha: float) -> str:
    """The confidence of the two-sided interval that belongs to one-sided tests at level alpha."""
    return f"{100 * (1 - 2 * alpha):.4g}%"
