"""The error rates of the decision rules (RULES.md, what is claimed), by simulation.

Harm is claimed falsely where the arm is as good as the baseline; non-inferiority where it is worse
by exactly the margin. Instances' rates are drawn from a beta distribution with the intraclass
correlation given; what an arm loses is lost evenly (each instance's rate is scaled), whole (an
instance keeps its rate or loses all), or its rates are drawn anew. The bar is 5.5 % for a nominal
5 %, plus two standard errors of the simulation. The rules' own test and interval decide, of one
arm; over several, Holm and the fixed sequence keep the rate of one.
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
LOSSES = ("even", "whole", "anew")
BAR = 0.055
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
        """Of each run the counts of (seeds baseline only, seeds arm only), as a flat histogram."""
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

    def instances_of(self, counts: tuple[int, ...]) -> list[Shares]:
        width = self.seeds + 1
        some: list[Shares] = []
        for code, count in enumerate(counts):
            b, c = divmod(code, width)
            some += [(Fraction(b, self.seeds), Fraction(c, self.seeds))] * count
        return some


def rate(case: Case, runs: int, seed: int) -> float:
    """The share of runs with the false claim; runs with the same counts are decided once."""
    rng = np.random.default_rng(seed)
    seen: dict[tuple[int, ...], bool] = {}
    claims = 0
    for counts in case.draw(rng, runs):
        if counts not in seen:
            some = case.instances_of(counts)
            if case.effect:
                seen[counts] = score_interval(some, 0.9)[1] < case.effect
            else:
                seen[counts] = sign_flip(some) < 0.05
        claims += seen[counts]
    return claims / runs


@click.command()
@click.option("--runs", default=10_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(runs: int, seed: int) -> None:
    """Print the largest error rate of each rule at each size, and exit 1 above the bar."""
    bar = BAR + 2 * (BAR * (1 - BAR) / runs) ** 0.5
    click.echo(f"{runs} runs a case; the bar is {bar:.2%}")
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
                    if margin <= base and not (loss == "anew" and not icc)
                ]
            found = [(rate(case, runs, seed + k), case) for k, case in enumerate(cases)]
            most, case = max(found, key=lambda pair: pair[0])
            worst = max(worst, most)
            at = f"base {case.base:.0%}"
            at += f", margin {case.effect:.0%}, lost {case.loss}" if case.effect else ""
            click.echo(f"| {rule} | {n} | {seeds} | {icc} | {most:.2%} | {at} |")
    click.echo(f"largest of all: {worst:.2%} ({worst / bar:.2f} of the bar)")
    if worst > bar:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
