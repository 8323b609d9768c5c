"""One proportion."""

from scipy.stats import binomtest

Interval = tuple[float, float]


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval, two-sided (Wilson 1927)."""
    return _interval(successes, trials, confidence, "wilson")


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """The exact interval, two-sided (Clopper and Pearson 1934)."""
    return _interval(successes, trials, confidence, "exact")


def _interval(successes: int, trials: int, confidence: float, method: str) -> Interval:
    """Without a trial nothing is known."""
    if not trials:
        return 0.0, 1.0
    found = binomtest(successes, trials).proportion_ci(confidence, method)
    return float(found.low), float(found.high)
