"""Compute the power and the minimum detectable effect of a design, before and after its run."""

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
    """A run of one arm and its baseline: instances, seeds, and the baseline's rate.

    `icc` is the share of the variance that lies between instances. If it is higher, two trials of
    one instance agree more often, and one pair shows more.
    """

    instances: int
    base_rate: float
    icc: float = 0.5
    seeds: int = 1
    alpha: float = 0.05
    """The level of the one-sided test."""


def discordance(base_rate: float, effect: float, icc: float) -> tuple[float, float]:
    """Return the chances that only the baseline, and that only the arm, succeeds on an instance.

    An instance's rate P has mean p and variance icc p (1 - p). The arm loses the share k =
    effect / p of this rate: a part of it on every instance, or all of it on some instances. With
    one seed, both cases have the same chances. Only the baseline succeeds: p - (1 - k) E[P^2]. Only
    the arm succeeds: (1 - k) (p - E[P^2]).
    """
    p = base_rate
    square = icc * p * (1 - p) + p * p
    kept = 1 - effect / p
    return p - kept * square, kept * (p - square)


def _equivalent_pairs(design: Design, effect: float) -> float:
    """Return the number of pairs with one seed that show as much as the design.

    More seeds do not reduce the variance between instances. If the arm loses some instances
    completely, this variance is k E[P^2] - effect^2. The rest of the variance is divided by the
    number of seeds.
    """
    p = design.base_rate
    first, second = discordance(p, effect, design.icc)
    whole = first + second - effect**2
    between = effect / p * (design.icc * p * (1 - p) + p * p) - effect**2
    if whole <= 0:
        return design.instances
    return design.instances * whole / (between + (whole - between) / design.seeds)


def paired_power(pairs: int, only_first: float, only_second: float, alpha: float = 0.05) -> float:
    """Return the power of McNemar's one-sided mid-p test.

    The power is a sum over the number of pairs that differ and over the direction of these pairs.
    `only_first` and `only_second` are chances. The sum stops when the chance that more pairs differ
    is below 1e-10.
    """
    differ = only_first + only_second
    if differ <= 0 or pairs < 1:
        return 0.0
    most = int(binom.isf(1e-10, pairs, differ)) + 1
    counts = np.arange(0, min(most, pairs) + 1)
    # The fewest wins with mid-p < alpha are the quantile, or one more.
    wins = binom.isf(alpha, counts, 0.5).astype(int)
    mid = binom.sf(wins, counts, 0.5) + 0.5 * binom.pmf(wins, counts, 0.5)
    needed = np.where(mid < alpha, wins, wins + 1)
    reached = binom.sf(needed - 1, counts, only_first / differ)
    return float((binom.pmf(counts, pairs, differ) * reached).sum())


def power(design: Design, effect: float) -> float:
    """Return the chance that the design shows harm of this size."""
    first, second = discordance(design.base_rate, effect, design.icc)
    return paired_power(round(_equivalent_pairs(design, effect)), first, second, design.alpha)


def power_of_no_harm(design: Design, margin: float) -> float:
    """Return the chance that the design claims non-inferiority within the margin without any harm.

    The function draws runs and judges each run as `score_interval` does. The interval's upper end
    is below the margin if the score statistic for a harm of that size is below the quantile. The
    chance is accurate to 1 point.
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
    """Return the chance of each possible result of an instance, and the two `Shares` of the result.

    Both arms have the same rate P, which is beta distributed with the design's mean and ICC. On one
    seed, the chance that only the baseline succeeds is P (1 - P), and the arm has the same chance.
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
    """Return the smallest harm that the design shows with this power.

    Return None if the design does not even show a total loss with this power.
    """
    if power(design, design.base_rate) < wanted:
        return None
    return _root(lambda effect: power(design, effect) - wanted, design.base_rate)


def observed_minimum_detectable_effect(
    pairs: int, agreement_rate: float, alpha: float = 0.05, wanted: float = POWER
) -> float | None:
    """Return the minimum detectable effect after a run.

    `agreement_rate` is the share of pairs in which both arms had the same result. Pairs that make
    the difference between the arms count as agreeing. Return None if no effect is detectable.
    """
    noise = (1 - agreement_rate) / 2

    def excess(effect: float) -> float:
        second = max(0.0, noise - effect / 2)
        return paired_power(pairs, second + effect, second, alpha) - wanted

    return _root(excess, 1.0) if excess(1.0) >= 0 else None


def clustered_minimum_detectable_effect(
    error: float | None, clusters: int, alpha: float = 0.05, wanted: float = POWER
) -> float | None:
    """Return the effect that a one-sided t test with this standard error shows with this power.

    The effect is the error times the sum of the t quantiles at 1 - alpha and `wanted`, with
    `clusters` - 1 degrees of freedom. Return None if the error is None or zero, or if there are
    fewer than two clusters.
    """
    if not error or clusters < 2:
        return None
    return float(t.ppf(1 - alpha, clusters - 1) + t.ppf(wanted, clusters - 1)) * error


def _root(excess: Callable[[float], float], high: float) -> float:
    """Return the effect at which `excess` is zero, accurate to 1e-4.

    Power rises with the effect, so there is such an effect.
    """
    return float(brentq(excess, 0.0, high, xtol=1e-4))


def unpaired_minimum_detectable_effect(
    instances: int, base_rate: float, alpha: float = 0.05, wanted: float = POWER
) -> float | None:
    """Return the smallest harm that a one-sided test of two arms with different instances shows.

    The formula is the normal approximation for two independent proportions (Fleiss, Levin and Paik
    2003, equation 4.14 without correction). Return None if not even a total loss is shown.
    """

    def excess(effect: float) -> float:
        return instances - unpaired_instances(base_rate, effect, alpha, wanted)

    if base_rate <= 0 or excess(base_rate) < 0:
        return None
    return float(brentq(excess, 1e-6, base_rate))


def unpaired_instances(
    base_rate: float, effect: float, alpha: float = 0.05, wanted: float = POWER
) -> int:
    """Return the instances per arm that show this harm in a one-sided test of independent arms."""
    arm, mean = base_rate - effect, base_rate - effect / 2
    za, zb = NormalDist().inv_cdf(1 - alpha), NormalDist().inv_cdf(wanted)
    spread = za * (2 * mean * (1 - mean)) ** 0.5
    spread += zb * (base_rate * (1 - base_rate) + arm * (1 - arm)) ** 0.5
    needed: float = (spread / effect) ** 2
    return ceil(needed)


def instances_needed(
    power_at: Callable[[int], float], wanted: float = POWER, most: int = 100_000
) -> int | None:
    """Return the smallest number of instances with enough power; None if `most` are not enough.

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
