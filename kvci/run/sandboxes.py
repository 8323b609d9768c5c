"""The registry of sandboxes. A new one is a module with these functions and a line in KINDS."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from kvci.errors import UserError
from kvci.run import in_bwrap, in_docker
from kvci.run.bounds import Bounds
from kvci.sandbox import Caps, Sandbox
from kvci.spec import Spec
from kvci.tasks.instance import Instance


class Kind(Protocol):
    """What a sandbox's module has."""

    HAS_NETWORK: bool
    """Whether grading can be given a network."""

    def unfit(self, instances: Sequence[Instance]) -> str:
        """Why this sandbox cannot run these instances; empty if it can."""

    def check(self, instances: Sequence[Instance]) -> str:
        """The manifest's text about this sandbox. Raises UserError if it cannot be used."""

    def identity(self, instance: Instance) -> str:
        """A text that identifies the instance's image; empty if it has no image of its own."""

    def lacks(self, instance: Instance) -> bool:
        """True if the instance's image is not on this machine."""

    def make(self, instance: Instance, bounds: Bounds, network: bool) -> Sandbox:
        """A fresh sandbox. Raises SandboxFailed."""

    def wait(self, bounds: Bounds) -> None:
        """Return as soon as sandboxes can be made again. Raises UserError after too long."""

    def sweep(self, own: bool) -> None:
        """End what killed kvci processes left, and with `own` what this process still has."""


KINDS: dict[str, Kind] = {"bwrap": in_bwrap, "docker": in_docker}
"""Name in a specification -> the module. `auto` takes the first that can run the instances."""


@dataclass(frozen=True)
class Sandboxes:
    """Makes a fresh sandbox for each trial; it is pickled for the grading process."""

    kind: str
    scratch: Path
    caps: Caps
    grade_network: bool = False
    """Grading has a network. Trials never have one."""
    run: str = ""

    @classmethod
    def of(cls, spec: Spec, kind: str, scratch: Path, run: str) -> Self:
        """The sandboxes of one kind, with the specification's limits."""
        caps = Caps(spec.memory_mib, spec.processes, spec.cpus)
        return cls(kind, scratch, caps, spec.grade_network, run)

    @property
    def _bounds(self) -> Bounds:
        return Bounds(self.scratch, self.caps, self.run)

    @property
    def has_network(self) -> bool:
        """Whether grading can be given a network."""
        return KINDS[self.kind].HAS_NETWORK

    def identity(self, instance: Instance) -> str:
        return KINDS[self.kind].identity(instance)

    def lacks(self, instance: Instance) -> bool:
        return KINDS[self.kind].lacks(instance)

    def make(self, instance: Instance, network: bool = False) -> Sandbox:
        """A fresh sandbox. Raises SandboxFailed."""
        return KINDS[self.kind].make(instance, self._bounds, network)

    def wait(self) -> None:
        """Return as soon as sandboxes can be made again. Raises UserError after too long."""
        KINDS[self.kind].wait(self._bounds)

    def sweep(self, own: bool = False) -> None:
        KINDS[self.kind].sweep(own)


def choose(spec: Spec, instances: Iterable[Instance]) -> tuple[str, str]:
    """The kind of sandbox for these instances, and the manifest's text about it.

    Raises UserError if no allowed kind can run them.
    """
    selected, why = list(instances), ""
    for name in KINDS if spec.sandbox == "auto" else (spec.sandbox,):
        if not (why := KINDS[name].unfit(selected)):
            return name, KINDS[name].check(selected)
    raise UserError(f"{why}.")
