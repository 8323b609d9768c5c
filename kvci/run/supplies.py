"""Fetch the images that a run needs on this machine before its sandboxes can be made."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Protocol

from kvci.plan import Block, blocks
from kvci.spec import Spec
from kvci.tasks.instance import Instance


class Supplies(Protocol):
    """The supply of images. A wave is a group of blocks whose images fit into the disk budget."""

    def waves(self, blocks: list[Block]) -> Iterator[list[Block]]:
        """Yield the blocks in groups. All images of a group are on this machine at one time."""

    def absent(self, instance: str) -> str:
        """Return why this instance's image can never be fetched; empty if it can."""

    def missing(self) -> list[str]:
        """Return a line for each image that could not be fetched."""

    def stopped(self) -> str:
        """Return why fetching has stopped, for example the time budget; empty if it continues."""


class NothingToFetch:
    """The supply for instances whose files come with kvci. They need no images."""

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
    """Return the supply of images for these instances.

    Instances whose files come with kvci need no image.
    """
    with_image = [instance for instance in instances if not instance.files]
    if not with_image:
        return NothingToFetch()
    from kvci.images.supply import supply_for

    return supply_for(spec, with_image, ledger, say)


def waves(
    spec: Spec,
    instances: Mapping[str, Instance],
    names: AbstractSet[str],
    folder: Path,
    say: Callable[[str], None],
) -> Iterator[set[str]]:
    """Yield the named instances in groups, for grading without trials.

    All images of a group are on this machine at one time. The run's time budget does not apply.
    `say` gets a line for each image that is missing.
    """
    selected = [instances[name] for name in names]
    without_budget = spec.model_copy(update={"time_budget_s": None})
    supply = supplies(without_budget, selected, folder / "images.json", say)
    planned = [block for block in blocks(list(instances), spec) if names & set(block.instances)]
    for wave in supply.waves(planned) if planned else ():
        yield {name for block in wave for name in block.instances} & names
    for line in supply.missing():
        say(line)
