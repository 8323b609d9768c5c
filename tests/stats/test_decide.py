from fractions import Fraction
from random import Random

import pytest
from statsmodels.stats.multitest import multipletests

from kvci.stats.clustered import Shares
from kvci.stats.decide import Claim, decide, equivalent, holm

YES, NO = Fraction(1), Fraction(0)


def pairs(only_first: int, only_second: int = 0, n: int = 200) -> list[Shares]:
    same = n - only_first - only_second
    return [(YES, NO)] * only_first + [(NO, YES)] * only_second + [(NO, NO)] * same


def claims(*arms: list[Shares], margin: float | None = 0.05) -> list[Claim]:
    return [decision.claim for decision in decide(arms, margin)]


def test_holm_worked_by_hand() -> None:
    """The values are 3 x 0.01, 2 x 0.03 and 1 x 0.04. The last is raised to the second."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_holm_equals_statsmodels() -> None:
    random = Random(1)
    for count in (1, 2, 3, 7):
        for _ in range(2):
            some = [random.choice((0.0, 0.01, 0.02, random.random(), 1.0)) for _ in range(count)]
            assert holm(some) == pytest.approx(multipletests(some, method="holm")[1])


def test_each_claim_is_reached() -> None:
    assert claims(pairs(20)) == [Claim.HARM]
    assert claims(pairs(0)) == [Claim.NON_INFERIOR]
    assert claims(pairs(12, 8)) == [Claim.INCONCLUSIVE]
    assert claims(pairs(10, 1, n=400)) == [Claim.HARM_WITHIN]


def test_no_margin_means_no_non_inferiority() -> None:
    assert claims(pairs(0), pairs(20), margin=None) == [Claim.INCONCLUSIVE, Claim.HARM]


def test_non_inferiority_stops_at_first_failing_arm() -> None:
    assert claims(pairs(0), pairs(12, 8), pairs(0)) == [
        Claim.NON_INFERIOR,
        Claim.INCONCLUSIVE,
        Claim.INCONCLUSIVE,
    ]


def test_harm_is_corrected_over_arms() -> None:
    assert claims(pairs(6, 1), margin=None) == [Claim.HARM]
    many = claims(pairs(6, 1), pairs(0), pairs(0), margin=None)
    assert many[0] is Claim.INCONCLUSIVE


def test_arm_without_pairs_is_inconclusive() -> None:
    (decision,) = decide([[]], 0.05)
    assert (decision.claim, decision.p_holm) == (Claim.INCONCLUSIVE, 1.0)


def test_equivalence_tests_both_directions() -> None:
    assert equivalent(pairs(1, 1), 0.05)
    assert not equivalent(pairs(20), 0.05) and not equivalent(pairs(0, 20), 0.05)
    assert decide([pairs(0, 20)], 0.05)[0].claim is Claim.NON_INFERIOR
