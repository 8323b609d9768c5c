"""Statistics of the variance between instances and between seeds."""

from collections.abc import Sequence
from math import comb


def icc(outcomes: Sequence[Sequence[bool]]) -> float | None:
    """Return the share of the variance that lies between instances, from 0 to 1.

    The method is one-way analysis of variance, with the mean size of unequal groups (Fleiss, Levin
    and Paik 2003, section 15.2; ICC(1) of Shrout and Fleiss 1979). Return None if there are fewer
    than two instances, only one seed, or no variance.
    """
    groups = [group for group in outcomes if group]
    n, total = len(groups), sum(len(group) for group in groups)
    if n < 2 or total == n:
        return None
    mean = sum(sum(group) for group in groups) / total
    between = sum(len(g) * (sum(g) / len(g) - mean) ** 2 for g in groups) / (n - 1)
    within = sum(sum(g) * (1 - sum(g) / len(g)) for g in groups) / (total - n)
    size = (total - sum(len(g) ** 2 for g in groups) / total) / (n - 1)
    whole = between + (size - 1) * within
    return min(1.0, max(0.0, (between - within) / whole)) if whole else None


def pass_at_k(successes: int, trials: int, k: int) -> float:
    """Return an unbiased estimate of the chance that at least one of k trials succeeds.

    The formula is equation 1 of Chen et al. 2021.
    Raises ValueError if there are fewer than k trials.
    """
    _check_enough(trials, k)
    return 1 - comb(trials - successes, k) / comb(trials, k)


def pass_hat_k(successes: int, trials: int, k: int) -> float:
    """Return pass^k, an unbiased estimate of the chance that all of k trials succeed.

    The formula is that of Yao et al. 2024, tau-bench.
    Raises ValueError if there are fewer than k trials.
    """
    _check_enough(trials, k)
    return comb(successes, k) / comb(trials, k)


def _check_enough(trials: int, k: int) -> None:
    if not 1 <= k <= trials:
        raise ValueError(f"cannot choose {k} of {trials} trials")
