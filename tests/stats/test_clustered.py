"""Results equal statsmodels' clustered regression, tests of one seed, and all sign patterns."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.stats import binom

from kvci.stats.clustered import (
    CONTINUITY,
    Shares,
    agreement,
    bootstrap_interval,
    cluster_error,
    cluster_interval,
    score_interval,
    shares,
    sign_flip,
)
from kvci.stats.paired import tango
from tests.stats.reference import mcnemar_mid_p_harm

YES, NO = Fraction(1), Fraction(0)


def one_seed(b: int, c: int, same: int) -> list[Shares]:
    return [(YES, NO)] * b + [(NO, YES)] * c + [(NO, NO)] * same


def test_shares_average_over_seeds() -> None:
    assert shares([True, True, False, False], [True, False, False, True]) == (
        Fraction(1, 4),
        Fraction(1, 4),
    )
    with pytest.raises(ValueError, match="needs a pair"):
        shares([], [])


@pytest.mark.parametrize(("b", "c"), [(5, 2), (8, 3), (0, 0), (0, 4), (4, 0)])
def test_one_seed_equals_mcnemar_and_tango(b: int, c: int) -> None:
    pairs = one_seed(b, c, 40)
    assert sign_flip(pairs) == pytest.approx(mcnemar_mid_p_harm(b, c))
    assert agreement(pairs) == 1.0
    assert score_interval(pairs, 0.9) == pytest.approx(tango(b, c, 40 + b + c, 0.9, CONTINUITY))


def test_sign_flip_counts_all_patterns() -> None:
    some = [(Fraction(2, 3), NO), (NO, Fraction(1, 3)), (Fraction(1, 2), NO), (YES, Fraction(1, 4))]
    differences = [b - c for b, c in some]
    observed = sum(differences)
    sums = [
        sum(s * d for s, d in zip(p, differences, strict=True)) for p in product((1, -1), repeat=4)
    ]
    expected = (sum(s > observed for s in sums) + sum(s == observed for s in sums) / 2) / len(sums)
    assert sign_flip(some) == pytest.approx(expected)


def test_agreeing_seeds_widen_the_interval() -> None:
    agree = [(YES, NO)] * 5 + [(NO, NO)] * 45
    disagree = [(Fraction(1, 5), NO)] * 25 + [(NO, NO)] * 25
    widths = [high - low for low, high in map(score_interval, (agree, disagree))]
    assert widths[1] < widths[0]
    assert score_interval(agree) == pytest.approx(tango(5, 0, 50, 0.95, CONTINUITY))


def test_equal_seeds_count_as_one_observation() -> None:
    assert score_interval([(NO, NO)] * 50, 0.9) == pytest.approx(tango(0, 0, 50, 0.9, CONTINUITY))


def test_cluster_error_equals_clustered_regression() -> None:
    rng = np.random.default_rng(1)
    clusters = rng.integers(12, size=300)
    differences = rng.integers(-1, 2, size=300) + clusters / 10
    fit = sm.OLS(differences, np.ones(300)).fit(
        cov_type="cluster", cov_kwds={"groups": clusters, "use_correction": False}
    )
    expected = fit.bse[0] * (12 / 11) ** 0.5
    error = cluster_error(list(differences), list(clusters))
    assert error == pytest.approx(expected)
    interval = cluster_interval(list(differences), list(clusters))
    assert interval == pytest.approx(
        tuple(differences.mean() + s * 2.200985 * expected for s in (-1, 1))
    )
    resampled = bootstrap_interval(list(differences), list(clusters))
    assert resampled == pytest.approx(interval, abs=0.05)


def test_one_repository_gives_no_interval() -> None:
    assert cluster_error([0.0, 1.0], ["a", "a"]) is None
    assert cluster_interval([0.0, 1.0], ["a", "a"]) is None
    assert bootstrap_interval([0.0, 1.0], ["a", "a"]) is None


@pytest.mark.parametrize(("n", "margin"), [(300, 0.02), (300, 0.05), (50, 0.02), (100, 0.1)])
def test_false_non_inferiority_stays_below_five_percent(n: int, margin: float) -> None:
    """The rate is the exact sum over all counts, for an arm that loses and never wins.

    Tango's interval without continuity has 6.0, 3.4, 0 and 5.8 % here.
    """
    claimed = [
        score_interval(one_seed(b, 0, n - b), 0.9)[1] < margin for b in range(int(3 * n * margin))
    ]
    size = sum(binom.pmf(b, n, margin) for b, claim in enumerate(claimed) if claim)
    assert size <= 0.05


def test_sign_flip_without_small_common_multiple() -> None:
    few = [(Fraction(1, n), Fraction(0)) for n in (2, 3, 4)]
    many = [*few, (Fraction(1, 17), Fraction(0)), (Fraction(1, 19), Fraction(0))]
    assert sign_flip(many) == pytest.approx(0.5**6, abs=1e-9)
    mixed = [*many, (Fraction(0), Fraction(5, 13))]
    signs = product((-1, 1), repeat=len(mixed))
    differences = [float(b - c) for b, c in mixed]
    sums = [sum(s * abs(d) for s, d in zip(some, differences, strict=True)) for some in signs]
    observed = sum(differences)
    expected = sum((s > observed + 1e-9) + 0.5 * (abs(s - observed) <= 1e-9) for s in sums) / len(
        sums
    )
    assert sign_flip(mixed) == pytest.approx(expected)
