"""The images that must be on this machine before a run's sandboxes can be made."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Protocol

from kvci.plan import Block, blocks
from kvci.spec import Spec
from kvci.tasks.instance import Instance


class Supplies(Protocol):
    """Fetches images, so that the sandboxes of a wave of blocks can be made at once."""

    def waves(self, blocks: list[Block]) -> Iterator[list[Block]]:
        """The blocks, in groups whose images are on this machine at the same time."""

    def absent(self, instance: str) -> str:
        """Why this instance's image can never be fetched; empty if it can."""

    def missing(self) -> list[str]:
        """A line for each image that could not be fetched."""

    def stopped(self) -> str:
        """Why fetching has stopped, for example the time budget; empty if it has not."""


class NothingToFetch:
    """For instances whose files come with kvci."""

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
    """The supply of images for these instances; those whose files come with kvci need none."""
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
    """The named instances in groups whose images are on this machine, for grading without trials.

    The run's time budget does not apply. `say` gets a line for each image that is missing.
    """
    selected = [instances[name] for name in names]
    without_budget = spec.model_copy(update={"time_budget_s": None})
    supply = supplies(without_budget, selected, folder / "images.json", say)
    planned = [block for block in blocks(list(instances), spec) if names & set(block.instances)]
    for wave in supply.waves(planned) if planned else ():
        yield {name for block in wave for name in block.instances} & names
    for line in supply.missing():
        say(line)
