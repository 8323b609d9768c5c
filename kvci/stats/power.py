"""What a design can see, before and after it was run."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, comb
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import beta, binom, t

from kvci.stats.clustered import CONTINUITY, ratio
from kvci.stats.paired import tango_z

POWER = 0.8
DRAWS, NODES = 4000, 1000
Vector = NDArray[np.float64]


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

    An instance's rate P has mean p and variance icc p (1 - p). The arm loses the share k =
    effect / p of it, everywhere a little or on some instances wholly: with one seed that is the
    same. Only the baseline: p - (1 - k) E[P^2]; only the arm: (1 - k) (p - E[P^2]).
    """
    p = base_rate
    square = icc * p * (1 - p) + p * p
    kept = 1 - effect / p
    return p - kept * square, kept * (p - square)


def _pairs(design: Design, effect: float) -> float:
    """So many pairs of one seed are worth what the design's instances and seeds are.

    What instances differ by does not shrink with seeds: where harm takes some instances wholly, its
    variance between them is k E[P^2] - effect^2; the rest of the variance is divided by the seeds.
    """
    p = design.base_rate
    first, second = discordance(p, effect, design.icc)
    whole = first + second - effect**2
    between = effect / p * (design.icc * p * (1 - p) + p * p) - effect**2
    if whole <= 0:
        return design.instances
    return design.instances * whole / (between + (whole - between) / design.seeds)


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
    """The chance to show harm of this size."""
    first, second = discordance(design.base_rate, effect, design.icc)
    return paired_power(round(_pairs(design, effect)), first, second, design.alpha)


def power_of_no_harm(design: Design, margin: float) -> float:
    """The chance to claim non-inferiority within the margin where there is no harm at all.

    Runs are drawn, and each is judged as `score_interval` would: its upper end is below the margin
    where the score statistic of a harm of that size is below the quantile. Good to 1 point.
    """
    chances, first, second = _no_harm(design)
    drawn = np.random.default_rng(0).multinomial(design.instances, chances, DRAWS)
    squares = drawn @ (first - second) ** 2
    z = NormalDist().inv_cdf(1 - design.alpha)
    claimed = 0
    for b, c, square in zip(drawn @ first, drawn @ second, squares, strict=True):
        scale = ratio(square, b + c)
        pairs = design.instances / scale
        claimed += tango_z(b / scale, c / scale, pairs, margin, CONTINUITY) < -z
    return claimed / DRAWS


def _no_harm(design: Design) -> tuple[Vector, Vector, Vector]:
    """What can become of an instance whose arms are alike: chance, and `Shares` of its seeds.

    Its rate P is beta distributed, with the design's mean and ICC. A seed is the baseline's alone
    with the chance P (1 - P), and the arm's alone as often.
    """
    p, size = design.base_rate, 1 / max(design.icc, 1e-9) - 1
    rates = beta.ppf((np.arange(NODES) + 0.5) / NODES, p * size, (1 - p) * size)
    alone, n = rates * (1 - rates), design.seeds
    kinds = [(x, y) for x in range(n + 1) for y in range(n + 1 - x)]
    chances = [
        comb(n, x) * comb(n - x, y) * np.mean(alone ** (x + y) * (1 - 2 * alone) ** (n - x - y))
        for x, y in kinds
    ]
    first, second = np.array(kinds, dtype=float).T / n
    return np.array(chances) / sum(chances), first, second


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


def instances_needed(
    shown: Callable[[int], float], wanted: float = POWER, most: int = 100_000
) -> int | None:
    """The fewest instances of which the power that `shown` gives is enough; None above `most`."""
    if shown(most) < wanted:
        return None
    low, high = 0, 1
    while shown(high) < wanted:
        low, high = high, min(most, 2 * high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if shown(middle) >= wanted else (middle, high)
    return high
