"""Simulate how often the decision rules (RULES.md, what is claimed) make a false claim.

A claim of harm is false if the arm is as good as the baseline. A claim of non-inferiority is false
if the arm is worse by exactly the margin. The instances' rates come from a beta distribution with
the given intraclass correlation (ICC). An arm loses in one of three ways: `even` scales each
instance's rate, `whole` sets the rate of some instances to 0, and `redrawn` draws new rates with a
lower mean. The limit is 5.5 % for a nominal 5 %, plus two standard errors of the simulation. Each
case has one arm, and the rules' own test and interval decide. With several arms, Holm's correction
and the fixed sequence keep the error rate of one arm.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import click
import numpy as np
from numpy.typing import NDArray

from kvci.stats.clustered import Shares, score_interval, sign_flip

INSTANCES, SEEDS, ICC = (50, 300), (1, 5), (0.0, 0.5)
BASE_RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5)
MARGINS = (0.01, 0.02, 0.05, 0.1)
LOSSES = ("even", "whole", "redrawn")
LIMIT = 0.055
Rates = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    instances: int
    seeds: int
    icc: float
    base: float
    effect: float
    loss: str

    def draw(self, rng: np.random.Generator, runs: int) -> Iterator[tuple[int, ...]]:
        """Yield one flattened histogram per run.

        It counts the instances by two numbers: the seeds that only the baseline resolves, and the
        seeds that only the arm resolves.
        """
        shape = (runs, self.instances)
        first = self._rates(rng, self.base, shape)
        kept = 1 - self.effect / self.base
        if self.loss == "even":
            second = first * kept
        elif self.loss == "whole":
            second = first * (rng.random(shape) < kept)
        else:
            second = self._rates(rng, self.base - self.effect, shape)
        one, two = (rng.random((*shape, self.seeds)) < rate[..., None] for rate in (first, second))
        only_first, only_second = (one & ~two).sum(axis=2), (two & ~one).sum(axis=2)
        width = self.seeds + 1
        codes = only_first * width + only_second
        for code in codes:
            yield tuple(np.bincount(code, minlength=width * width).tolist())

    def _rates(self, rng: np.random.Generator, mean: float, shape: tuple[int, int]) -> Rates:
        if not self.icc or mean <= 0:
            return np.full(shape, max(mean, 0.0))
        spread = 1 / self.icc - 1
        return rng.beta(mean * spread, (1 - mean) * spread, size=shape)

    def shares(self, counts: tuple[int, ...]) -> list[Shares]:
        """Return the shares of each instance from a run's histogram."""
        width = self.seeds + 1
        found: list[Shares] = []
        for code, count in enumerate(counts):
            b, c = divmod(code, width)
            found += [(Fraction(b, self.seeds), Fraction(c, self.seeds))] * count
        return found


def rate(case: Case, runs: int, seed: int) -> float:
    """Return the share of runs with a false claim; runs with equal counts are decided once."""
    rng = np.random.default_rng(seed)
    claimed: dict[tuple[int, ...], bool] = {}
    claims = 0
    for counts in case.draw(rng, runs):
        if counts not in claimed:
            shares = case.shares(counts)
            if case.effect:
                claimed[counts] = score_interval(shares, 0.9)[1] < case.effect
            else:
                claimed[counts] = sign_flip(shares) < 0.05
        claims += claimed[counts]
    return claims / runs


@click.command()
@click.option("--runs", default=10_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(runs: int, seed: int) -> None:
    """Print the largest error rate of each rule and size; exit 1 if one is above the limit."""
    limit = LIMIT + 2 * (LIMIT * (1 - LIMIT) / runs) ** 0.5
    click.echo(f"{runs} runs per case; the limit is {limit:.2%}")
    click.echo("| false claim of | instances | seeds | ICC | largest rate | at |")
    click.echo("|---" * 6 + "|")
    worst = 0.0
    for rule in ("harm", "non-inferiority"):
        for n, seeds, icc in itertools.product(INSTANCES, SEEDS, ICC):
            if rule == "harm":
                cases = [Case(n, seeds, icc, base, 0.0, "even") for base in BASE_RATES]
            else:
                cases = [
                    Case(n, seeds, icc, base, margin, loss)
                    for base, margin, loss in itertools.product(BASE_RATES, MARGINS, LOSSES)
                    if margin <= base and not (loss == "redrawn" and not icc)
                ]
            found = [(rate(case, runs, seed + k), case) for k, case in enumerate(cases)]
            largest, case = max(found, key=lambda pair: pair[0])
            worst = max(worst, largest)
            at = f"base {case.base:.0%}"
            at += f", margin {case.effect:.0%}, loss {case.loss}" if case.effect else ""
            click.echo(f"| {rule} | {n} | {seeds} | {icc} | {largest:.2%} | {at} |")
    click.echo(f"largest of all: {worst:.2%} ({worst / limit:.2f} of the limit)")
    if worst > limit:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
