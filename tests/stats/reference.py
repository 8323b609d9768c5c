"""Reference implementations of statistics that only the tests need."""

from scipy.stats import binom


def mcnemar_mid_p_harm(only_first: int, only_second: int) -> float:
    """Return McNemar's one-sided mid-p value of harm.

    It is the chance of so many pairs in which only the first arm succeeds, if no arm is better.
    """
    differ = only_first + only_second
    above = binom.sf(only_first, differ, 0.5)
    return float(above + 0.5 * binom.pmf(only_first, differ, 0.5))
