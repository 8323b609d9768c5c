"""The three claims of rules section 3, for several arms against one baseline."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from kvci.stats.clustered import Shares, score_interval, sign_flip
from kvci.stats.proportion import Interval


class Claim(StrEnum):
    HARM = "harm shown"
    HARM_WITHIN = "harm shown, smaller than the margin"
    NON_INFERIOR = "non-inferior within the margin"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Decision:
    """What is claimed of one arm, and from what."""

    claim: Claim
    p: float
    """One-sided, of harm, as it is."""
    p_holm: float
    """After Holm's correction over the arms."""
    interval: Interval
    """Of the difference, baseline less arm; two-sided, of confidence 1 - 2 alpha."""


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values (Holm 1979): the smallest of n times n, the next times n - 1, and none
    below one before it. statsmodels' own collects the garbage of the process at each call."""
    adjusted, largest, left = [1.0] * len(p_values), 0.0, len(p_values)
    for p, position in sorted(zip(p_values, range(left), strict=True)):
        largest = max(largest, min(1.0, left * p))
        adjusted[position] = largest
        left -= 1
    return adjusted


def equivalent(instances: Sequence[Shares], margin: float, alpha: float = 0.05) -> bool:
    """Two one-sided tests (Schuirmann 1987): neither arm is worse than the other by the margin.

    Both are at level alpha where the interval of confidence 1 - 2 alpha lies within the margins.
    No claim of rules section 3, which ask for harm alone.
    """
    low, high = score_interval(instances, 1 - 2 * alpha)
    return -margin < low and high < margin


def decide(
    arms: Sequence[Sequence[Shares]], margin: float | None, alpha: float = 0.05
) -> list[Decision]:
    """One decision an arm, in the order given, which is that of the fixed sequence.

    Harm: p below alpha after Holm over the arms. Non-inferior: the upper end of the interval below
    the margin, arm after arm until the first that is not. Without a margin none is non-inferior; an
    arm without a pair is inconclusive.
    """
    p_values = [sign_flip(instances) if instances else 1.0 for instances in arms]
    made: list[Decision] = []
    going_on = margin is not None
    for instances, p, adjusted in zip(arms, p_values, holm(p_values), strict=True):
        interval = score_interval(instances, 1 - 2 * alpha)
        going_on = going_on and margin is not None and interval[1] < margin
        harm = adjusted < alpha
        if harm:
            claim = Claim.HARM_WITHIN if going_on else Claim.HARM
        else:
            claim = Claim.NON_INFERIOR if going_on else Claim.INCONCLUSIVE
        made.append(Decision(claim, p, adjusted, interval))
    return made
