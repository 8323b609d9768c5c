"""The results equal statsmodels and the examples of the papers."""

import pytest
from scipy.stats import binom
from statsmodels.stats.contingency_tables import mcnemar

from kvci.stats.paired import mcnemar_mid_p, newcombe, tango, tango_z
from tests.stats.reference import mcnemar_mid_p_harm

AIRWAYS = (1, 1, 7, 12)
"""Bentur et al. 2009, the example of Fagerland, Lydersen and Laake 2013 and 2014."""


@pytest.mark.parametrize(("b", "c"), [(5, 2), (8, 3), (0, 4), (30, 12), (7, 6)])
def test_mid_p_is_exact_less_one_table(b: int, c: int) -> None:
    """The exact two-sided value counts the observed table twice, and mid-p counts it once."""
    exact = mcnemar([[1, b], [c, 1]], exact=True).pvalue
    assert mcnemar_mid_p(b, c) == pytest.approx(exact - binom.pmf(b, b + c, 0.5))
    assert mcnemar_mid_p(b, c) == pytest.approx(2 * mcnemar_mid_p_harm(max(b, c), min(b, c)))


def test_mid_p_equals_the_paper() -> None:
    _, b, c, _ = AIRWAYS
    assert mcnemar_mid_p(b, c) == pytest.approx(0.0391, abs=5e-5)
    assert mcnemar_mid_p_harm(c, b) == pytest.approx(0.0391 / 2, abs=5e-5)


def test_mid_p_without_difference() -> None:
    assert mcnemar_mid_p(0, 0) == 1.0
    assert mcnemar_mid_p_harm(0, 0) == 0.5


def test_newcombe_equals_the_papers() -> None:
    assert newcombe(*AIRWAYS) == pytest.approx((-0.507, -0.026), abs=5e-4)
    assert newcombe(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=5e-5)  # Newcombe 1998


def test_tango_equals_the_papers() -> None:
    _, b, c, _ = AIRWAYS
    assert tango(b, c, sum(AIRWAYS)) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize(("b", "c", "n"), [(5, 2, 300), (0, 0, 50), (0, 7, 20), (50, 0, 50)])
def test_tango_inverts_its_test(b: int, c: int, n: int) -> None:
    low, high = tango(b, c, n, 0.9)
    assert -1 <= low <= (b - c) / n <= high <= 1
    for limit, z in ((low, 1.6449), (high, -1.6449)):
        if abs(limit) < 1:
            assert tango_z(b, c, n, limit) == pytest.approx(z, abs=1e-3)


def test_swapped_arms_mirror_the_interval() -> None:
    assert tango(5, 2, 300) == pytest.approx([-limit for limit in reversed(tango(2, 5, 300))])
    assert newcombe(3, 5, 2, 290) == pytest.approx(
        [-limit for limit in reversed(newcombe(3, 2, 5, 290))]
    )


def test_no_pairs_give_the_full_interval() -> None:
    assert tango(0, 0, 0) == newcombe(0, 0, 0, 0) == (-1.0, 1.0)


def test_continuity_moves_both_limits_outwards() -> None:
    (low, high), (lower, higher) = tango(5, 2, 300), tango(5, 2, 300, continuity=0.25)
    assert lower < low and high < higher
    assert tango_z(5, 2, 300, higher, 0.25) == pytest.approx(-1.95996, abs=1e-3)
