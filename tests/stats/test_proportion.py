import pytest
from statsmodels.stats.proportion import proportion_confint

from kvci.stats.proportion import independent, wilson


@pytest.mark.parametrize(("successes", "trials"), [(8, 300), (0, 28), (28, 28), (13, 40)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_equals_statsmodels(successes: int, trials: int, confidence: float) -> None:
    expected = proportion_confint(successes, trials, 1 - confidence, "wilson")
    assert wilson(successes, trials, confidence) == pytest.approx(expected, abs=1e-9)


def test_no_trials_give_the_full_interval() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("counts", "interval"),
    [
        ((56, 70, 48, 80), (0.0524, 0.3339)),
        ((9, 10, 3, 10), (0.1705, 0.8090)),
        ((10, 10, 0, 20), (0.6791, 1.0)),
    ],
)
def test_independent_equals_newcombes_table(
    counts: tuple[int, int, int, int], interval: tuple[float, float]
) -> None:
    """The values are those of method 10 in table II of Newcombe 1998 (Stat. in Medicine 17:873)."""
    assert independent(*counts) == pytest.approx(interval, abs=5e-5)
    assert independent(0, 0, 1, 2) == (-1.0, 1.0)
