"""Decide what is claimed about several arms and one baseline (RULES.md, what is claimed)."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from kvci.stats.clustered import Shares, score_interval, sign_flip


class Claim(StrEnum):
    HARM = "harm shown"
    HARM_WITHIN = "harm shown, smaller than the margin"
    NON_INFERIOR = "non-inferior within the margin"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Decision:
    """The claim about one arm, and the p value behind it."""

    claim: Claim
    p_holm: float
    """One-sided p value of harm, after Holm's correction over the arms."""


def holm(p_values: Sequence[float]) -> list[float]:
    """Return adjusted p values (Holm 1979).

    The smallest of n values is multiplied by n, the next value by n - 1, and so on. An adjusted
    value is never smaller than the adjusted value before it. kvci does not call the function of
    statsmodels: it runs the garbage collector at each call and is slow.
    """
    adjusted, largest, left = [1.0] * len(p_values), 0.0, len(p_values)
    for p, position in sorted(zip(p_values, range(left), strict=True)):
        largest = max(largest, min(1.0, left * p))
        adjusted[position] = largest
        left -= 1
    return adjusted


def equivalent(instances: Sequence[Shares], margin: float, alpha: float = 0.05) -> bool:
    """True if neither arm is worse than the other by the margin.

    This means two one-sided tests at level alpha (Schuirmann 1987): the interval of confidence
    1 - 2 alpha lies within both margins. The result is exploratory: no claim rests on it.
    """
    low, high = score_interval(instances, 1 - 2 * alpha)
    return -margin < low and high < margin


def decide(
    arms: Sequence[Sequence[Shares]], margin: float | None, alpha: float = 0.05
) -> list[Decision]:
    """Return one decision per arm. The given order is the order of the fixed sequence.

    Harm is shown if p is below alpha after Holm's correction over the arms. An arm is non-inferior
    if the upper end of the interval is below the margin, for this arm and all arms before it.
    Without a margin, no arm is non-inferior. An arm without a pair is inconclusive.
    """
    p_values = [sign_flip(instances) if instances else 1.0 for instances in arms]
    decisions: list[Decision] = []
    within = margin is not None
    for instances, adjusted in zip(arms, holm(p_values), strict=True):
        _, high = score_interval(instances, 1 - 2 * alpha)
        within = within and margin is not None and high < margin
        if adjusted < alpha:
            claim = Claim.HARM_WITHIN if within else Claim.HARM
        else:
            claim = Claim.NON_INFERIOR if within else Claim.INCONCLUSIVE
        decisions.append(Decision(claim, adjusted))
    return decisions
