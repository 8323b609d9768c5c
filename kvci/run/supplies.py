"""Which images a run needs on this machine before its sandboxes can be made."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Protocol

from kvci.plan import Block, blocks
from kvci.spec import Spec
from kvci.tasks.instance import Instance


class Supplies(Protocol):
    """Sees to it that the sandboxes of a wave of blocks can be made without waiting."""

    def waves(self, blocks: list[Block]) -> Iterator[list[Block]]: ...

    def absent(self, instance: str) -> str:
        """Why this instance's sandbox can never be made; empty if it can."""

    def missing(self) -> list[str]:
        """A line for each thing that could not be had."""

    def stopped(self) -> str:
        """Why nothing more is fetched, such as a time budget; empty if it is."""


class AllHere:
    """Nothing has to be fetched."""

    def waves(self, blocks: list[Block]) -> Iterator[list[Block]]:
        yield blocks

    def absent(self, instance: str) -> str:
        return ""

    def missing(self) -> list[str]:
        return []

    def stopped(self) -> str:
        return ""


def supplies(
    spec: Spec, instances: Iterable[Instance], ledger: Path, say: Callable[[str], None]
) -> Supplies:
    """Of these instances; those that kvci has the files of need no image of their own."""
    some = [instance for instance in instances if not instance.files]
    if not some:
        return AllHere()
    from kvci.images.supply import supply_for

    return supply_for(spec, some, ledger, say)


def waves(
    spec: Spec,
    instances: Mapping[str, Instance],
    names: AbstractSet[str],
    folder: Path,
    say: Callable[[str], None],
) -> Iterator[set[str]]:
    """For grading alone: those of the names whose images are here, a wave at a time, whatever the
    run's time budget; `say` hears what is missing."""
    some = [instances[name] for name in names]
    endless = spec.model_copy(update={"time_budget_s": None})
    supply = supplies(endless, some, folder / "images.json", say)
    planned = [block for block in blocks(list(instances), spec) if names & set(block.instances)]
    for wave in supply.waves(planned) if planned else ():
        yield {name for block in wave for name in block.instances} & names
    for line in supply.missing():
        say(line)
