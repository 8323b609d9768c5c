"""Instances x seeds x arms -> trials in blocks. Work and resuming are by block."""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kvci.errors import UserError
from kvci.spec import Spec

INTERIM = "interim, no claim"
"""The text that every table shows until all planned trials are done."""


@dataclass(frozen=True)
class Trial:
    """One arm on one instance with one seed. It has one conversation and at most one patch."""

    arm: str
    instance: str
    seed: int

    def __str__(self) -> str:
        return f"{self.arm}, {self.instance}, seed {self.seed}"


@dataclass(frozen=True)
class Block:
    """A few instances, on which all arms run.

    The arms run on one host, without a pause, in the order of `arms`.
    """

    number: int
    instances: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    of_arms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Arm -> the instances that the arm runs. An arm that is missing here runs all of them."""

    def trials(self, arm: str) -> list[Trial]:
        names = self.of_arms.get(arm, self.instances)
        return [Trial(arm, name, seed) for seed in self.seeds for name in names]


def select(ids: Sequence[str], spec: Spec) -> list[str]:
    """Return the ids that a specification selects, in the dataset's order.

    The filter is applied first, then the limit, then the shard. Raises UserError if no instance is
    selected, or if there are fewer instances than shards. Raises UserError, too, if the dataset
    does not contain an instance that was asked for.
    """
    if unknown := sorted(set(spec.instances) - set(ids)):
        raise UserError(
            f"{unknown[0]} is not an instance of {spec.dataset}; give other --instances."
        )
    wanted = spec.instances or ids
    chosen = [name for name in ids if name in wanted and re.search(spec.filter, name)]
    chosen = chosen[: spec.limit]
    if not chosen:
        raise UserError(
            f"No instance of {spec.dataset} matches the filter '{spec.filter}'; widen it."
        )
    index, count = (int(part) for part in spec.shard.split("/"))
    if count > len(chosen):
        raise UserError(
            f"There are only {len(chosen)} instances for {count} shards; give at most "
            f"{len(chosen)} shards."
        )
    return chosen[index - 1 :: count]


def blocks(ids: Sequence[str], spec: Spec) -> list[Block]:
    """Return the blocks of the selected instances. Raises the same errors as `select`."""
    return cut(select(ids, spec), spec)


def cut(chosen: Sequence[str], spec: Spec) -> list[Block]:
    """Return the blocks of these instances, which are selected already.

    In each block the arms have a random order, which depends on `order_seed`.
    """
    made = []
    for number, start in enumerate(range(0, len(chosen), spec.block_size)):
        arms = [arm.id for arm in spec.arms]
        random.Random(f"{spec.order_seed}/{chosen[start]}").shuffle(arms)
        names = tuple(chosen[start : start + spec.block_size])
        of_arms = {arm: spec.instances_of(arm, names) for arm in arms}
        made.append(Block(number, names, tuple(arms), spec.seeds, of_arms))
    return made
