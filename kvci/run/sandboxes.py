"""Which sandbox the trials of a run get: the one seam between instances and sandboxes."""

import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

from kvci.errors import UserError
from kvci.plan import Block, blocks
from kvci.sandbox import Caps, Sandbox, SandboxFailed, bwrap, cgroup
from kvci.sandbox.bwrap import Bwrap
from kvci.spec import Spec
from kvci.tasks.instance import Instance

Kind = Literal["bwrap", "docker"]


@dataclass(frozen=True)
class Sandboxes:
    """Makes a fresh sandbox per trial; goes to the grading child as it is."""

    kind: Kind
    scratch: Path
    caps: Caps
    grade_network: bool = False
    """Grading has a network; trials never have."""
    run: str = ""
    """Its id, for whoever looks at containers."""

    @classmethod
    def of(cls, spec: Spec, kind: Kind, scratch: Path, run: str) -> Self:
        """As the spec bounds them."""
        caps = Caps(spec.memory_mib, spec.processes, spec.cpus)
        return cls(kind, scratch, caps, spec.grade_network, run)

    def identity(self, instance: Instance) -> str:
        """What tells the instance's image from all others; empty where it has none of its own."""
        if instance.files or self.kind != "docker":
            return ""
        from kvci.images import history

        return history.identity(instance.row.image)

    def lacks(self, instance: Instance) -> bool:
        """True if nothing can be made for it, because its image is not here; an engine that does
        not answer says nothing of that."""
        if self.kind != "docker":
            return False
        from kvci.docker import engine

        try:
            return not engine.has(instance.row.image)
        except (*engine.GONE, UserError):
            return False

    def make(self, instance: Instance, network: bool = False) -> Sandbox:
        """Raises SandboxFailed. Only Docker has a network to give."""
        if self.kind == "docker":
            from kvci.images.history import without_future
            from kvci.sandbox.container import Docker

            image, base = instance.row.image, instance.row.base_commit
            name = image if instance.files else without_future(image, base)
            return Docker(name, instance.files, self.caps, network, self.run)
        try:
            return Bwrap(instance.files, self.scratch, self.caps)
        except (OSError, subprocess.SubprocessError) as error:
            raise SandboxFailed(f"the work tree could not be made: {error}") from None

    def wait(self) -> None:
        """Return when sandboxes can be made again. Raises UserError if that takes too long."""
        if self.kind == "docker":
            from kvci.docker import engine

            engine.wait()
        else:
            bwrap.wait(self.scratch)

    def sweep(self, own: bool = False) -> None:
        """End what killed kvci processes left, and with `own` what this one still has."""
        cgroup.sweep()
        if self.kind == "docker":
            from kvci.docker import engine

            engine.sweep(own)


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
    from kvci.images.supply import supply_of

    return supply_of(spec, some, ledger, say)


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


def choose(spec: Spec, instances: Iterable[Instance]) -> tuple[Kind, str]:
    """The sandbox for these instances, and what the manifest says of it. Raises UserError.

    By itself it takes bubblewrap where kvci has the repository's files, Docker where an image
    has them.
    """
    some = list(instances)
    images = [instance for instance in some if not instance.files]
    if spec.sandbox == "bwrap" and images:
        raise UserError(
            f"{images[0].row.instance_id} lives in an image; bubblewrap cannot run it, "
            "use --sandbox docker."
        )
    if spec.sandbox == "bwrap" or (spec.sandbox == "auto" and not images):
        return "bwrap", f"bwrap, {bwrap.check()}"
    from kvci.docker import engine

    version = engine.check()
    for image in {instance.row.image for instance in some if instance.files}:
        if not engine.has(image):
            raise UserError(
                f"Docker has no image {image}; make it with "
                f"docker build -t {image} ci/images/calibration."
            )
    return "docker", f"docker {version}"
