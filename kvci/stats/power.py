"""What a design can see, before and after it was run."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from statistics import NormalDist

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom, t

POWER = 0.8


@dataclass(frozen=True)
class Design:
    """Instances x seeds of one arm against the baseline, at a base rate.

    `icc` is the share of the variance between instances: the higher, the more often two trials of
    one instance agree, and the more a pair is worth.
    """

    instances: int
    base_rate: float
    icc: float = 0.5
    seeds: int = 1
    alpha: float = 0.05
    """One-sided."""


def discordance(base_rate: float, effect: float, icc: float) -> tuple[float, float]:
    """How often the baseline alone, and the arm alone, succeeds on an instance.

    Two trials of an instance disagree with chance 2 p (1 - p) (1 - icc), at the mean of both rates;
    the effect is what the two ways differ by.
    """
    p = base_rate - effect / 2
    only_arm = max(0.0, (1 - icc) * p * (1 - p) - effect / 2)
    return only_arm + effect, only_arm


def paired_power(pairs: int, only_first: float, only_second: float, alpha: float = 0.05) -> float:
    """Of McNemar's one-sided mid-p test: the sum over how many pairs differ, and which way.

    `only_first` and `only_second` are chances. The pairs that differ are counted up to where the
    chance of more is below 1e-10.
    """
    differ = only_first + only_second
    if differ <= 0 or pairs < 1:
        return 0.0
    most = int(binom.isf(1e-10, pairs, differ)) + 1
    counts = np.arange(0, min(most, pairs) + 1)
    # mid-p < alpha needs the quantile's wins, or one more
    wins = binom.isf(alpha, counts, 0.5).astype(int)
    mid = binom.sf(wins, counts, 0.5) + 0.5 * binom.pmf(wins, counts, 0.5)
    needed = np.where(mid < alpha, wins, wins + 1)
    reached = binom.sf(needed - 1, counts, only_first / differ)
    return float((binom.pmf(counts, pairs, differ) * reached).sum())


def power(design: Design, effect: float) -> float:
    """The chance to show harm of this size. Seeds count as pairs, worth less the more they agree.

    With R seeds the variance of an instance's difference is that of one seed over R, where the
    effect is the same on all instances: Var = 2 p (1 - p) (1 - icc) / R.
    """
    first, second = discordance(design.base_rate, effect, design.icc)
    return paired_power(design.instances * design.seeds, first, second, design.alpha)


def smallest_effect(design: Design, wanted: float = POWER) -> float | None:
    """The smallest harm shown with this power; None if not even a total loss would be."""
    if power(design, design.base_rate) < wanted:
        return None
    return _root(lambda effect: power(design, effect) - wanted, design.base_rate)


def smallest_visible(
    pairs: int, agreement_rate: float, alpha: float = 0.05, wanted: float = POWER
) -> float | None:
    """The same after the run: from how often the pairs disagreed beside any effect.

    `agreement_rate` is the share of pairs in which both arms did the same. None if nothing is
    visible.
    """
    noise = (1 - agreement_rate) / 2

    def seen(effect: float) -> float:
        second = max(0.0, noise - effect / 2)
        return paired_power(pairs, second + effect, second, alpha) - wanted

    return _root(seen, 1.0) if seen(1.0) >= 0 else None


def smallest_beside(
    error: float | None, clusters: int, alpha: float = 0.05, wanted: float = POWER
) -> float | None:
    """The effect that a one-sided t test with this standard error shows so often.

    The quantiles at 1 - alpha and `wanted`, of t with `clusters` - 1 degrees of freedom, times the
    error; None without one, or where it is zero.
    """
    if not error or clusters < 2:
        return None
    return float(t.ppf(1 - alpha, clusters - 1) + t.ppf(wanted, clusters - 1)) * error


def _root(excess: Callable[[float], float], high: float) -> float:
    """Power rises with the effect, so there is one; it is good to 1e-4."""
    return float(brentq(excess, 0.0, high, xtol=1e-4))


def unpaired_smallest_effect(
    instances: int, base_rate: float, alpha: float = 0.05, wanted: float = POWER
) -> float | None:
    """As if the arms had been run on other instances: two independent proportions, one-sided.

    Normal approximation (Fleiss, Levin and Paik 2003, equation 4.14 without correction).
    """

    def excess(effect: float) -> float:
        return instances - unpaired_instances(base_rate, effect, alpha, wanted)

    if base_rate <= 0 or excess(base_rate) < 0:
        return None
    return float(brentq(excess, 1e-6, base_rate))


def unpaired_instances(
    base_rate: float, effect: float, alpha: float = 0.05, wanted: float = POWER
) -> int:
    """Instances an arm to show this harm between two independent groups, one-sided."""
    arm, mean = base_rate - effect, base_rate - effect / 2
    za, zb = NormalDist().inv_cdf(1 - alpha), NormalDist().inv_cdf(wanted)
    spread = za * (2 * mean * (1 - mean)) ** 0.5
    spread += zb * (base_rate * (1 - base_rate) + arm * (1 - arm)) ** 0.5
    needed: float = (spread / effect) ** 2
    return ceil(needed)


def instances_needed(design: Design, effect: float, wanted: float = POWER) -> int:
    """The fewest instances with which `design` shows this harm; its own number is not looked at.

    Raises ValueError for an effect above the base rate.
    """
    if not 0 < effect <= design.base_rate:
        raise ValueError("an effect lies between 0 and the base rate")
    first, second = discordance(design.base_rate, effect, design.icc)

    def enough(instances: int) -> bool:
        return paired_power(instances * design.seeds, first, second, design.alpha) >= wanted

    high = 1
    while not enough(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
