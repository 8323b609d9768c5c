import pytest
from statsmodels.stats.proportion import proportion_confint

from kvci.stats.proportion import clopper_pearson, wilson


@pytest.mark.parametrize(("successes", "trials"), [(8, 300), (0, 28), (28, 28), (13, 40)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_intervals_are_those_of_statsmodels(successes: int, trials: int, confidence: float) -> None:
    for interval, method in ((wilson, "wilson"), (clopper_pearson, "beta")):
        expected = proportion_confint(successes, trials, 1 - confidence, method)
        assert interval(successes, trials, confidence) == pytest.approx(expected, abs=1e-9)


def test_without_a_trial_nothing_is_known() -> None:
    assert wilson(0, 0) == clopper_pearson(0, 0) == (0.0, 1.0)
