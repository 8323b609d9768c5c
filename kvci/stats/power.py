"""The power and the minimum detectable effect of a design, before and after its run."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, comb
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import beta, binom, t

from kvci.stats.clustered import CONTINUITY, agreement_of_sums
from kvci.stats.paired import tango_z

POWER = 0.8
DRAWS, NODES = 4000, 1000
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Design:
    """One arm against the baseline, on instances x seeds, at a base rate.

    `icc` is the share of the variance that lies between instances. The higher it is, the more often
    two trials of one instance agree, and the more one pair shows.
    """

    instances: int
    base_rate: float
    icc: float = 0.5
    seeds: int = 1
    alpha: float = 0.05
    """One-sided."""


def discordance(base_rate: float, effect: float, icc: float) -> tuple[float, float]:
    """The chances that only the baseline, and only the arm, succeeds on an instance.

    An instance's rate P has mean p and variance icc p (1 - p). The arm loses the share k =
    effect / p of it, either a little on every instance or all on some: with one seed both are the
    same. Only the baseline: p - (1 - k) E[P^2]; only the arm: (1 - k) (p - E[P^2]).
    """
    p = base_rate
    square = icc * p * (1 - p) + p * p
    kept = 1 - effect / p
    return p - kept * square, kept * (p - square)


def _equivalent_pairs(design: Design, effect: float) -> float:
    """The number of pairs with one seed that show as much as the design's instances and seeds.

    More seeds do not reduce the variance between instances. Where harm takes all of some instances,
    that variance is k E[P^2] - effect^2; the rest of the variance is divided by the seeds.
    """
    p = design.base_rate
    first, second = discordance(p, effect, design.icc)
    whole = first + second - effect**2
    between = effect / p * (design.icc * p * (1 - p) + p * p) - effect**2
    if whole <= 0:
        return design.instances
    return design.instances * whole / (between + (whole - between) / design.seeds)


def paired_power(pairs: int, only_first: float, only_second: float, alpha: float = 0.05) -> float:
    """The power of McNemar's one-sided mid-p test: a sum over how many pairs differ, and which way.

    `only_first` and `only_second` are chances. The sum stops where the chance that more pairs
    differ is below 1e-10.
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
    """The chance that the design shows harm of this size."""
    first, second = discordance(design.base_rate, effect, design.icc)
    return paired_power(round(_equivalent_pairs(design, effect)), first, second, design.alpha)


def power_of_no_harm(design: Design, margin: float) -> float:
    """The chance that the design claims non-inferiority within the margin if there is no harm.

    It draws runs and judges each as `score_interval` would: the interval's upper end is below the
    margin if the score statistic of a harm of that size is below the quantile. Accurate to 1 point.
    """
    chances, first, second = _no_harm(design)
    drawn = np.random.default_rng(0).multinomial(design.instances, chances, DRAWS)
    squares = drawn @ (first - second) ** 2
    z = NormalDist().inv_cdf(1 - design.alpha)
    claimed = 0
    for b, c, square in zip(drawn @ first, drawn @ second, squares, strict=True):
        scale = agreement_of_sums(square, b + c)
        pairs = design.instances / scale
        claimed += tango_z(b / scale, c / scale, pairs, margin, CONTINUITY) < -z
    return claimed / DRAWS


def _no_harm(design: Design) -> tuple[Vector, Vector, Vector]:
    """The possible results of an instance whose two arms have the same rate: the chance of each
    result, and its two `Shares`.

    The rate P is beta distributed with the design's mean and ICC. On a seed, only the baseline
    succeeds with the chance P (1 - P), and only the arm with the same chance.
    """
    p, size = design.base_rate, 1 / max(design.icc, 1e-9) - 1
    rates = beta.ppf((np.arange(NODES) + 0.5) / NODES, p * size, (1 - p) * size)
    one_only, n = rates * (1 - rates), design.seeds
    kinds = [(x, y) for x in range(n + 1) for y in range(n + 1 - x)]
    chances = [
        comb(n, x)
        * comb(n - x, y)
        * np.mean(one_only ** (x + y) * (1 - 2 * one_only) ** (n - x - y))
        for x, y in kinds
    ]
    first, second = np.array(kinds, dtype=float).T / n
    return np.array(chances) / sum(chances), first, second


def minimum_detectable_effect(design: Design, wanted: float = POWER) -> float | None:
    """The smallest harm that the design shows with this power; None if not even a total loss."""
    if power(design, design.base_rate) < wanted:
        return None
    return _root(lambda effect: power(design, effect) - wanted, design.base_rate)


def observed_minimum_detectable_effect(
    pairs: int, agreement_rate: float, alpha: float = 0.05, wanted: float = POWER
) -> float | None:
    """The same after a run, from the share of pairs in which both arms did the same.

    `agreement_rate` leaves out the difference between the arms. None if no effect is detectable.
    """
    noise = (1 - agreement_rate) / 2

    def excess(effect: float) -> float:
        second = max(0.0, noise - effect / 2)
        return paired_power(pairs, second + effect, second, alpha) - wanted

    return _root(excess, 1.0) if excess(1.0) >= 0 else None


def clustered_minimum_detectable_effect(
    error: float | None, clusters: int, alpha: float = 0.05, wanted: float = POWER
) -> float | None:
    """The effect that a one-sided t test with this standard error shows with this power.

    It is the error times the sum of the t quantiles at 1 - alpha and `wanted`, with `clusters` - 1
    degrees of freedom. None without an error or if it is zero.
    """
    if not error or clusters < 2:
        return None
    return float(t.ppf(1 - alpha, clusters - 1) + t.ppf(wanted, clusters - 1)) * error


def _root(excess: Callable[[float], float], high: float) -> float:
    """The effect at which `excess` is zero, to 1e-4. Power rises with the effect, so one exists."""
    return float(brentq(excess, 0.0, high, xtol=1e-4))


def unpaired_minimum_detectable_effect(
    instances: int, base_rate: float, alpha: float = 0.05, wanted: float = POWER
) -> float | None:
    """The smallest harm shown between two arms with different instances, one-sided.

    Normal approximation for two independent proportions (Fleiss, Levin and Paik 2003, equation 4.14
    without correction). None if not even a total loss.
    """

    def excess(effect: float) -> float:
        return instances - unpaired_instances(base_rate, effect, alpha, wanted)

    if base_rate <= 0 or excess(base_rate) < 0:
        return None
    return float(brentq(excess, 1e-6, base_rate))


def unpaired_instances(
    base_rate: float, effect: float, alpha: float = 0.05, wanted: float = POWER
) -> int:
    """The instances per arm that show this harm between two independent groups, one-sided."""
    arm, mean = base_rate - effect, base_rate - effect / 2
    za, zb = NormalDist().inv_cdf(1 - alpha), NormalDist().inv_cdf(wanted)
    spread = za * (2 * mean * (1 - mean)) ** 0.5
    spread += zb * (base_rate * (1 - base_rate) + arm * (1 - arm)) ** 0.5
    needed: float = (spread / effect) ** 2
    return ceil(needed)


def instances_needed(
    power_at: Callable[[int], float], wanted: float = POWER, most: int = 100_000
) -> int | None:
    """The fewest instances with enough power; None if more than `most` are needed.

    `power_at` gives the power of a number of instances.
    """
    if power_at(most) < wanted:
        return None
    low, high = 0, 1
    while power_at(high) < wanted:
        low, high = high, min(most, 2 * high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_at(middle) >= wanted else (middle, high)
    return high
