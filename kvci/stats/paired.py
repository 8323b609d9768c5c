"""Statistics of two arms on the same instances with one seed: the pairs form a 2x2 table.

`only_first` counts the pairs in which only the first arm succeeded. Counts may be fractions: with
several seeds, they are sums of shares (see `clustered.py`).
"""

from math import sqrt

from scipy.optimize import brentq
from scipy.stats import binom, norm

from kvci.stats.proportion import Interval, wilson


def mcnemar_mid_p(only_first: int, only_second: int) -> float:
    """Return McNemar's two-sided mid-p value: Fagerland, Lydersen and Laake 2013, equation 3."""
    differ = only_first + only_second
    smaller = min(only_first, only_second)
    one_sided = binom.cdf(smaller, differ, 0.5) - 0.5 * binom.pmf(smaller, differ, 0.5)
    return min(1.0, float(2 * one_sided))


def newcombe(
    both: int, only_first: int, only_second: int, neither: int, confidence: float = 0.95
) -> Interval:
    """Return the interval of the difference of paired proportions.

    The method is square-and-add: Newcombe 1998, method 10.
    """
    n = both + only_first + only_second + neither
    if not n:
        return -1.0, 1.0
    first, second = both + only_first, both + only_second
    p1, p2 = first / n, second / n
    (low1, high1), (low2, high2) = (wilson(count, n, confidence) for count in (first, second))
    margins = first * (n - first) * second * (n - second)
    cross = float(both * neither - only_first * only_second)
    if cross > 0:
        cross = max(cross - n / 2, 0.0)
    phi = cross / sqrt(margins) if margins else 0.0

    def add(a: float, b: float) -> float:
        return sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    difference = p1 - p2
    return difference - add(p1 - low1, high2 - p2), difference + add(high1 - p1, p2 - low2)


def tango_z(
    only_first: float, only_second: float, n: float, difference: float, shift: float = 0.0
) -> float:
    """Return the score statistic of the hypothesis p1 - p2 = `difference`: Tango 1998, equation 10.

    `shift`, in pairs, is added to `only_first` - `only_second`.
    """
    b, c, d = only_first, only_second, difference
    linear = (2 * n - b + c) * d - b - c
    root = sqrt(max(0.0, linear**2 + 8 * n * c * d * (1 - d)))
    p01 = max(0.0, (root - linear) / (4 * n))
    variance = n * (2 * p01 + d * (1 - d))
    distance = b - c + shift - n * d
    if variance <= 0:
        return 0.0 if abs(distance) < 1e-12 else float("inf") * distance
    return float(distance / sqrt(variance))


def tango(
    only_first: float,
    only_second: float,
    n: float,
    confidence: float = 0.95,
    continuity: float = 0.0,
) -> Interval:
    """Return the two-sided score interval of the difference of paired proportions (Tango 1998).

    `continuity`, in pairs, moves both limits outwards. The interval is (-1, 1) if there is no pair.
    """
    if n <= 0:
        return -1.0, 1.0
    z = float(norm.ppf(0.5 + confidence / 2))
    center = (only_first - only_second) / n
    edge = 1 - 1e-9

    def limit(sign: int) -> float:
        def excess(difference: float) -> float:
            shift = -sign * continuity
            return tango_z(only_first, only_second, n, difference, shift) - sign * z

        end = -sign * edge
        if (excess(end) > 0) == (sign < 0):
            return float(-sign)
        start = min(max(center, -edge), edge)
        return float(brentq(excess, min(start, end), max(start, end), xtol=1e-10))

    return limit(+1), limit(-1)
