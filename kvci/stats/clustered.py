"""Differences that hang together: several seeds of one instance, several instances of a repository.

`Shares` are the pairs of one instance, averaged over its seeds: the share of seeds in which the
first arm alone succeeded, and that of the second arm alone. With one seed they are 0 or 1.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from fractions import Fraction
from math import lcm, sqrt

import numpy as np
from scipy.stats import t

from kvci.stats.paired import tango
from kvci.stats.proportion import Interval

Shares = tuple[Fraction, Fraction]
UNIT_MAX = 5040
"""Shares are counted in such parts at the smallest, where numbers of seeds have no small multiple
in common; the sum of a sign pattern is then good to 1e-4 an instance."""
CERTAIN = 4
"""So many instances' worth of seeds that agree perfectly are added to what was seen. Chosen by
simulation (ci/bench/decisions.py): with few instances that differ, how much seeds agree is hardly
seen, and without this a claim of no harm is made too often."""
CONTINUITY = 0.25
"""In pairs. Tango's interval alone claims no harm too often where few pairs differ: of 300 pairs,
at a true harm of 2 points and none the other way, 6.0 % for a nominal 5 %. With a quarter of a pair
it is at most 4.9 % at 50 to 300 pairs and margins of 1 to 10 points (summed over all tables)."""


def shares(first: Sequence[bool], second: Sequence[bool]) -> Shares:
    """Of one instance, seed by seed. Raises ValueError without a pair."""
    pairs = list(zip(first, second, strict=True))
    if not pairs:
        raise ValueError("an instance needs a pair")
    n = len(pairs)
    return Fraction(sum(a and not b for a, b in pairs), n), Fraction(
        sum(b and not a for a, b in pairs), n
    )


def sign_flip(instances: Sequence[Shares]) -> float:
    """One-sided p value of harm: the first arm is no better on any instance than the second.

    Then each instance's difference is as likely to have the other sign. All sign patterns are
    counted, not sampled, and the value is the mid-p one, so that one seed gives McNemar's.
    """
    differences = [only_first - only_second for only_first, only_second in instances]
    unit = min(lcm(*(d.denominator for d in differences), 1), UNIT_MAX)
    steps = [abs(round(d * unit)) for d in differences]
    steps = [step for step in steps if step]
    total = sum(steps)
    chances = np.zeros(2 * total + 1)
    chances[total] = 1.0
    for step in steps:
        moved = np.zeros_like(chances)
        moved[step:] += 0.5 * chances[: len(chances) - step]
        moved[: len(chances) - step] += 0.5 * chances[step:]
        chances = moved
    seen = sum(round(d * unit) for d in differences) + total
    return float(chances[seen + 1 :].sum() + 0.5 * chances[seen])


def agreement(instances: Sequence[Shares]) -> float:
    """How much the seeds of an instance agree: 1 if they all do, 1/R if they are independent.

    The variance of the instances' differences is at most that of differences of -1, 0 and 1 with
    the same shares. This is the ratio of the two, drawn towards 1 by CERTAIN instances.
    """
    squares = sum(float(b - c) ** 2 for b, c in instances)
    return ratio(squares, sum(float(b + c) for b, c in instances))


def ratio(squares: float, sizes: float) -> float:
    """`agreement` from the sums over instances of (b - c)^2 and of b + c."""
    return (squares + CERTAIN) / (sizes + CERTAIN)


def score_interval(instances: Sequence[Shares], confidence: float = 0.95) -> Interval:
    """Tango's interval with the instance as cluster, two-sided.

    The counts are scaled by the design effect, as Rao and Scott (1992) do for clustered binary data
    and Yang, Sun and Hardin (2012) for matched pairs; seen from one instance an observation, which
    is what it is with one seed, the effect is `agreement`. CONTINUITY moves both limits outwards.
    """
    scale = agreement(instances)
    only_first = sum(float(b) for b, _ in instances) / scale
    only_second = sum(float(c) for _, c in instances) / scale
    return tango(only_first, only_second, len(instances) / scale, confidence, CONTINUITY)


def cluster_error(differences: Sequence[float], clusters: Sequence[Hashable]) -> float | None:
    """The standard error of the mean with clusters; None with fewer than two of them.

    The sums of a cluster's residuals are squared (Miller 2024, section 2.2), times G / (G - 1) for
    G clusters.
    """
    groups = _by_cluster(differences, clusters)
    if len(groups) < 2:
        return None
    mean = sum(differences) / len(differences)
    squares = sum(sum(d - mean for d in group) ** 2 for group in groups)
    return sqrt(squares * len(groups) / (len(groups) - 1)) / len(differences)


def cluster_interval(
    differences: Sequence[float], clusters: Sequence[Hashable], confidence: float = 0.95
) -> Interval | None:
    """The mean plus and minus the quantile of t with G - 1 degrees of freedom times
    `cluster_error`, two-sided. None where the error is zero: too little was seen to tell."""
    error = cluster_error(differences, clusters)
    if not error:
        return None
    mean = sum(differences) / len(differences)
    reach = float(t.ppf(0.5 + confidence / 2, len(set(clusters)) - 1)) * error
    return mean - reach, mean + reach


def bootstrap_interval(
    differences: Sequence[float],
    clusters: Sequence[Hashable],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval | None:
    """The percentile interval of the mean over resampled clusters; None with fewer than two.

    Exploratory: where no pair differs it has no width (rules, section 3).
    """
    groups = _by_cluster(differences, clusters)
    if len(groups) < 2:
        return None
    sums = np.array([sum(group) for group in groups])
    sizes = np.array([len(group) for group in groups])
    drawn = np.random.default_rng(seed).integers(len(groups), size=(resamples, len(groups)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)


def _by_cluster(differences: Sequence[float], clusters: Sequence[Hashable]) -> list[list[float]]:
    groups: dict[Hashable, list[float]] = defaultdict(list)
    for difference, cluster in zip(differences, clusters, strict=True):
        groups[cluster].append(difference)
    return list(groups.values())
