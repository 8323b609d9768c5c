"""One proportion, and two of groups that have nothing to do with each other."""

from scipy.stats import binomtest

Interval = tuple[float, float]


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval, two-sided (Wilson 1927)."""
    return _interval(successes, trials, confidence, "wilson")


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """The exact interval, two-sided (Clopper and Pearson 1934)."""
    return _interval(successes, trials, confidence, "exact")


def independent(
    first: int, first_of: int, second: int, second_of: int, confidence: float = 0.95
) -> Interval:
    """The difference of two independent proportions by square-and-add, two-sided.

    Newcombe 1998 (Statistics in Medicine 17:873), method 10. Without a trial nothing is known.
    """
    from statsmodels.stats.proportion import confint_proportions_2indep  # pandas: seconds

    if not first_of or not second_of:
        return -1.0, 1.0
    counts = (first, first_of, second, second_of)
    low, high = confint_proportions_2indep(*counts, method="newcomb", alpha=1 - confidence)
    return float(low), float(high)


def _interval(successes: int, trials: int, confidence: float, method: str) -> Interval:
    """Without a trial nothing is known."""
    if not trials:
        return 0.0, 1.0
    found = binomtest(successes, trials).proportion_ci(confidence, method)
    return float(found.low), float(found.high)
