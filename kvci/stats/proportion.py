"""Intervals of one proportion, and of the difference of two independent proportions."""

from scipy.stats import binomtest

Interval = tuple[float, float]


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Return Wilson's two-sided score interval (Wilson 1927); (0, 1) if there is no trial."""
    if not trials:
        return 0.0, 1.0
    found = binomtest(successes, trials).proportion_ci(confidence, "wilson")
    return float(found.low), float(found.high)


def independent(
    first: int, first_of: int, second: int, second_of: int, confidence: float = 0.95
) -> Interval:
    """Return the two-sided interval of the difference of two independent proportions.

    The method is square-and-add: Newcombe 1998 (Statistics in Medicine 17:873), method 10. The
    interval is (-1, 1) if a group has no trial.
    """
    from statsmodels.stats.proportion import confint_proportions_2indep  # loads pandas: slow

    if not first_of or not second_of:
        return -1.0, 1.0
    counts = (first, first_of, second, second_of)
    low, high = confint_proportions_2indep(*counts, method="newcomb", alpha=1 - confidence)
    return float(low), float(high)
