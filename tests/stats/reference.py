"""Reference implementations of statistics that kvci does not need itself."""

from scipy.stats import binom


def mcnemar_mid_p_harm(only_first: int, only_second: int) -> float:
    """McNemar's one-sided mid-p value of harm: the chance of this many pairs with only the first
    arm, if neither arm is better."""
    differ = only_first + only_second
    above = binom.sf(only_first, differ, 0.5)
    return float(above + 0.5 * binom.pmf(only_first, differ, 0.5))
