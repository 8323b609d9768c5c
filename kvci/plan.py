"""Instances x seeds x arms -> trials in blocks, the unit of work, of resuming and of evidence."""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kvci.errors import UserError
from kvci.spec import Spec

INTERIM = "interim, no claim"
"""What every surface says until all planned trials are done."""


@dataclass(frozen=True)
class Trial:
    """One (arm, instance, seed): one conversation, at most one patch."""

    arm: str
    instance: str
    seed: int


@dataclass(frozen=True)
class Block:
    """A few instances with all arms, on one host in one go; `arms` is the order to run them in."""

    number: int
    instances: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    of_arms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Arm -> those of the instances that it runs, where that is not all."""

    def trials(self, arm: str) -> list[Trial]:
        names = self.of_arms.get(arm, self.instances)
        return [Trial(arm, name, seed) for seed in self.seeds for name in names]


def select(ids: Sequence[str], spec: Spec) -> list[str]:
    """Instances and filter, then limit, then shard, always in the dataset's order.

    Raises UserError if nothing is left, or too little for so many shards, or an instance is asked
    for that is not there.
    """
    if unknown := sorted(set(spec.instances) - set(ids)):
        raise UserError(f"{unknown[0]} is no instance of {spec.dataset}.")
    wanted = spec.instances or ids
    chosen = [name for name in ids if name in wanted and re.search(spec.filter, name)]
    chosen = chosen[: spec.limit]
    if not chosen:
        raise UserError(
            f"No instance of {spec.dataset} is left after filter '{spec.filter}'; widen it."
        )
    index, count = (int(part) for part in spec.shard.split("/"))
    if count > len(chosen):
        raise UserError(
            f"There is not one instance for each of {count} shards; give {len(chosen)} at most."
        )
    return chosen[index - 1 :: count]


def blocks(ids: Sequence[str], spec: Spec) -> list[Block]:
    """The blocks of the selected instances; arms in random order in each, by the spec's seed."""
    chosen = select(ids, spec)
    made = []
    for number, start in enumerate(range(0, len(chosen), spec.block_size)):
        arms = [arm.id for arm in spec.arms]
        random.Random(f"{spec.order_seed}/{chosen[start]}").shuffle(arms)
        names = tuple(chosen[start : start + spec.block_size])
        of_arms = {arm: spec.of_arm(arm, names) for arm in arms}
        made.append(Block(number, names, tuple(arms), spec.seeds, of_arms))
    return made
