from itertools import combinations

import numpy as np
import pytest

from kvci.stats.variance import icc, pass_at_k, pass_hat_k


def test_icc_of_agreeing_and_of_random_seeds() -> None:
    assert icc([[True] * 4, [False] * 4, [True] * 4]) == 1.0
    rng = np.random.default_rng(0)
    coins = icc((rng.random((400, 5)) < 0.3).tolist())
    assert coins == pytest.approx(0, abs=0.04)
    rates = rng.beta(0.5, 0.5, size=(2000, 1))  # ICC = 1 / (0.5 + 0.5 + 1)
    assert icc((rng.random((2000, 5)) < rates).tolist()) == pytest.approx(0.5, abs=0.04)


def test_icc_without_enough_data_is_none() -> None:
    assert icc([[True], [False]]) is None
    assert icc([[True, False]]) is None
    assert icc([[False, False], [False, False]]) is None


def test_pass_at_k_averages_over_all_choices() -> None:
    trials = [True, True, False, False, False]
    choices = list(combinations(trials, 3))
    assert pass_at_k(2, 5, 3) == pytest.approx(sum(map(any, choices)) / len(choices))
    assert pass_hat_k(4, 5, 3) == pytest.approx(4 / 10)
    assert pass_hat_k(2, 5, 3) == 0
    with pytest.raises(ValueError, match="cannot choose"):
        pass_at_k(1, 2, 3)
