"""Statistics of clusters: several seeds of one instance, or several instances of one repository.

`Shares` are two shares of an instance's seeds: the seeds in which only the first arm succeeded, and
the seeds in which only the second arm succeeded. With one seed, both shares are 0 or 1.
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
"""The largest common denominator of shares. If the numbers of seeds have no smaller common
multiple, shares are rounded to this denominator. The sum of a sign pattern is then accurate to 1e-4
per instance."""
AGREEING_INSTANCES = 4
"""The number of instances with perfectly agreeing seeds that are added to the data. If few
instances differ, the data hardly show how much seeds agree, and without this addition
non-inferiority is claimed too often. The number comes from simulation (ci/bench/decisions.py)."""
CONTINUITY = 0.25
"""The continuity correction of Tango's interval, in pairs. Without a correction, non-inferiority is
claimed too often if few pairs differ. For example, with 300 pairs, a true harm of 2 points and no
gain, it is claimed in 6.0 % of cases for a nominal 5 %. With a quarter of a pair, the rate is at
most 4.9 % for 50 to 300 pairs and margins of 1 to 10 points (exact sums over all tables)."""


def shares(first: Sequence[bool], second: Sequence[bool]) -> Shares:
    """Return the shares of one instance from its outcomes, seed by seed.

    Raises ValueError if there is no pair.
    """
    pairs = list(zip(first, second, strict=True))
    if not pairs:
        raise ValueError("an instance needs a pair")
    n = len(pairs)
    return Fraction(sum(a and not b for a, b in pairs), n), Fraction(
        sum(b and not a for a, b in pairs), n
    )


def sign_flip(instances: Sequence[Shares]) -> float:
    """Return the one-sided p value of harm.

    The null hypothesis is that the first arm is better on no instance. The difference of each
    instance then has either sign with the same chance. All sign patterns are counted, without
    sampling. The value is a mid-p value; with one seed it equals McNemar's mid-p.
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
    """Return how much an instance's seeds agree: 1 if all agree, 1/R if R seeds are independent.

    The value is the variance of the instances' differences, divided by the largest variance that
    is possible with the same shares: differences of only -1, 0 and 1 have that variance.
    AGREEING_INSTANCES moves the value towards 1.
    """
    squares = sum(float(b - c) ** 2 for b, c in instances)
    return agreement_of_sums(squares, sum(float(b + c) for b, c in instances))


def agreement_of_sums(squares: float, sizes: float) -> float:
    """Return `agreement` from two sums over instances: of (b - c)^2, and of b + c."""
    return (squares + AGREEING_INSTANCES) / (sizes + AGREEING_INSTANCES)


def score_interval(instances: Sequence[Shares], confidence: float = 0.95) -> Interval:
    """Return Tango's two-sided interval with instances as clusters.

    The counts are scaled by the design effect: Rao and Scott (1992) for clustered binary data;
    Yang, Sun and Hardin (2012) for matched pairs. The design effect is `agreement`, with
    one observation per instance as the reference. CONTINUITY moves both limits outwards.
    """
    scale = agreement(instances)
    only_first = sum(float(b) for b, _ in instances) / scale
    only_second = sum(float(c) for _, c in instances) / scale
    return tango(only_first, only_second, len(instances) / scale, confidence, CONTINUITY)


def cluster_error(differences: Sequence[float], clusters: Sequence[Hashable]) -> float | None:
    """Return the standard error of the mean of clustered values, or None.

    The error comes from the squared sum of each cluster's residuals (Miller 2024, section 2.2),
    times G / (G - 1) for G clusters. It is None if there are fewer than two clusters.
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
    """Return the two-sided interval of the mean of clustered values, or None.

    Its half-width is `cluster_error` times the t quantile with G - 1 degrees of freedom, for G
    clusters. It is None if the error is None or zero, because the data are too few.
    """
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
    """Return the percentile interval of the mean over resampled clusters, or None.

    It is None if there are fewer than two clusters. The interval is exploratory: if no pair
    differs, it has no width.
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
