"""The results agree with simulation, and with statsmodels for independent groups."""

from dataclasses import replace

import numpy as np
import pytest
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import proportion_effectsize

from kvci.stats.clustered import score_interval, shares, sign_flip
from kvci.stats.power import (
    Design,
    clustered_minimum_detectable_effect,
    discordance,
    instances_needed,
    minimum_detectable_effect,
    observed_minimum_detectable_effect,
    paired_power,
    power,
    power_of_no_harm,
    unpaired_instances,
    unpaired_minimum_detectable_effect,
)
from tests.stats.reference import mcnemar_mid_p_harm


@pytest.mark.parametrize(("pairs", "first", "second"), [(50, 0.12, 0.02), (300, 0.04, 0.02)])
def test_power_equals_simulation(pairs: int, first: float, second: float) -> None:
    drawn = np.random.default_rng(0).multinomial(pairs, [first, second, 1 - first - second], 4000)
    found = np.mean([mcnemar_mid_p_harm(b, c) < 0.05 for b, c, _ in drawn.tolist()])
    assert paired_power(pairs, first, second) == pytest.approx(found, abs=0.025)


def test_power_without_harm_is_at_most_alpha() -> None:
    for pairs in (50, 300, 1500):
        for rate in (0.01, 0.1, 0.24):
            assert paired_power(pairs, rate, rate) <= 0.0505


def test_discordance_of_independent_trials() -> None:
    first, second = discordance(0.2, 0.05, icc=0)
    assert first - second == pytest.approx(0.05)
    assert first == pytest.approx(0.2 * 0.85) and second == pytest.approx(0.15 * 0.8)
    assert discordance(0.2, 0.2, icc=0.5)[1] == 0.0


@pytest.mark.parametrize(
    ("instances", "seeds", "base"), [(300, 1, 0.2), (300, 1, 0.05), (300, 5, 0.2), (50, 5, 0.5)]
)
def test_minimum_effect_is_shown_at_its_power(instances: int, seeds: int, base: float) -> None:
    """The simulation has the sign-flip test and beta rates; the arm loses some instances fully."""
    design = Design(instances, base, icc=0.5, seeds=seeds)
    effect = minimum_detectable_effect(design)
    assert effect
    rng, shown, runs = np.random.default_rng(0), 0, 500
    for _ in range(runs):
        rates = rng.beta(base, 1 - base, instances)  # ICC 0.5
        lost = rng.random(instances) < effect / base
        one = rng.random((instances, seeds)) < rates[:, None]
        two = rng.random((instances, seeds)) < np.where(lost, 0.0, rates)[:, None]
        shown += sign_flip([shares(a, b) for a, b in zip(one, two, strict=True)]) < 0.05
    assert shown / runs == pytest.approx(0.8, abs=0.06)


@pytest.mark.parametrize(
    ("instances", "seeds", "base", "margin"),
    [(300, 1, 0.3, 0.05), (300, 1, 0.03, 0.02), (50, 5, 0.5, 0.1), (50, 5, 0.2, 0.1),
     (30, 5, 0.5, 0.12), (100, 5, 0.5, 0.06)],
)  # fmt: skip
def test_non_inferiority_is_claimed_at_its_power(
    instances: int, seeds: int, base: float, margin: float
) -> None:
    expected = power_of_no_harm(Design(instances, base, 0.5, seeds), margin)
    rng, claimed, runs = np.random.default_rng(0), 0, 500
    for _ in range(runs):
        rates = rng.beta(base, 1 - base, instances)[:, None]  # ICC 0.5
        one, two = (rng.random((instances, seeds)) < rates for _ in range(2))
        some = [shares(a, b) for a, b in zip(one, two, strict=True)]
        claimed += score_interval(some, 0.9)[1] < margin
    assert claimed / runs == pytest.approx(expected, abs=0.05)


def test_power_of_no_harm_at_its_limits() -> None:
    assert 0 < power_of_no_harm(Design(300, 0.3, icc=0.0), 0.05) < 1
    assert power_of_no_harm(Design(1, 0.3), 0.05) == 0.0


def test_minimum_effect_and_instances_needed_agree() -> None:
    design = Design(300, 0.5, icc=0.5)
    effect = minimum_detectable_effect(design)
    assert effect and power(design, effect) == pytest.approx(0.8, abs=0.005)

    def shown(instances: int) -> float:
        return power(replace(design, instances=instances), effect)

    assert instances_needed(shown) == pytest.approx(300, abs=10)
    assert instances_needed(lambda n: 0.0) is None and instances_needed(lambda n: 1.0) == 1


def test_low_base_rate_detects_nothing() -> None:
    assert minimum_detectable_effect(Design(300, 0.01)) is None
    effect = minimum_detectable_effect(Design(300, 0.0267, icc=0, alpha=0.025))
    assert effect is None or effect > 0.024


def test_seeds_and_agreement_lower_the_minimum_effect() -> None:
    one, five = (
        minimum_detectable_effect(Design(300, 0.2)),
        minimum_detectable_effect(Design(300, 0.2, seeds=5)),
    )
    assert one and five and five < one / 1.3
    less = minimum_detectable_effect(Design(300, 0.2, icc=0))
    assert less and one < less


def test_noise_raises_the_observed_minimum_effect() -> None:
    assert observed_minimum_detectable_effect(3, 1.0) is None
    calm, noisy = (
        observed_minimum_detectable_effect(300, 1.0),
        observed_minimum_detectable_effect(300, 0.9),
    )
    assert calm and noisy and calm < noisy
    assert paired_power(300, calm, 0.0) == pytest.approx(0.8, abs=0.005)


def test_unpaired_instances_equal_statsmodels() -> None:
    needed = unpaired_instances(0.5, 0.05, alpha=0.025)
    peer = NormalIndPower().solve_power(
        proportion_effectsize(0.5, 0.45), alpha=0.05, power=0.8, alternative="two-sided"
    )
    assert needed == pytest.approx(peer, rel=0.01)
    effect = unpaired_minimum_detectable_effect(needed, 0.5, alpha=0.025)
    assert effect == pytest.approx(0.05, abs=1e-3)
    assert unpaired_minimum_detectable_effect(50, 0.01) is None
    assert unpaired_minimum_detectable_effect(50, 0.0) is None


def test_clustered_minimum_effect_from_standard_error() -> None:
    assert clustered_minimum_detectable_effect(0.02, 10**6) == pytest.approx(0.0497, abs=1e-4)
    few = clustered_minimum_detectable_effect(0.02, 12)
    assert few and few > 0.0525
    assert (
        clustered_minimum_detectable_effect(None, 12) is None
        and clustered_minimum_detectable_effect(0.0, 12) is None
    )
