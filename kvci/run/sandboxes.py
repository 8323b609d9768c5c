"""The registry of sandboxes.

To add a sandbox, write a module with the functions of `Kind`, and a line in KINDS.
"""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from kvci import patience
from kvci.errors import UserError
from kvci.run import in_bwrap, in_docker
from kvci.run.bounds import Bounds
from kvci.rundir.documents import FailedAttempt, now
from kvci.sandbox import Caps, Sandbox
from kvci.spec import Spec
from kvci.tasks.instance import Instance
from kvci.taxonomy import Exit, Verdict


class Kind(Protocol):
    """The names that the module of a sandbox must have."""

    HAS_NETWORK: bool
    """True if the sandbox can give grading a network."""

    def unfit(self, instances: Sequence[Instance]) -> str:
        """Return why this sandbox cannot run these instances; empty if it can."""

    def check(self, instances: Sequence[Instance]) -> str:
        """Return the manifest's text about this sandbox.

        Raises UserError if this sandbox does not work on this machine.
        """

    def identity(self, instance: Instance) -> str:
        """Return a text that identifies the instance's image; empty if there is no such image."""

    def lacks(self, instance: Instance) -> bool:
        """True if the instance's image is not on this machine."""

    def make(self, instance: Instance, bounds: Bounds, network: bool) -> Sandbox:
        """Return a new sandbox. Raises SandboxFailed if it cannot be made."""

    def problem(self, bounds: Bounds) -> str:
        """Return why no sandbox can be made now, and what to do; empty if one can be made."""

    def sweep(self, own: bool) -> None:
        """Remove the containers or processes of kvci processes that were killed.

        If `own` is true, also remove the containers of this process.
        """


KINDS: dict[str, Kind] = {"bwrap": in_bwrap, "docker": in_docker}
"""Name in a specification -> module. `auto` means the first that can run the instances."""


@dataclass(frozen=True)
class Sandboxes:
    """The sandboxes of a run, one for each trial. The grading process gets a copy of this."""

    kind: str
    scratch: Path
    caps: Caps
    grade_network: bool = False
    """True if grading has a network. Trials never have a network."""
    run: str = ""

    @classmethod
    def of(cls, spec: Spec, kind: str, scratch: Path, run: str) -> Self:
        """Return the sandboxes of one kind, with the specification's limits."""
        caps = Caps(spec.memory_mib, spec.processes, spec.cpus)
        return cls(kind, scratch, caps, spec.grade_network, run)

    @property
    def _bounds(self) -> Bounds:
        return Bounds(self.scratch, self.caps, self.run)

    @property
    def has_network(self) -> bool:
        """True if the sandbox can give grading a network."""
        return KINDS[self.kind].HAS_NETWORK

    def identity(self, instance: Instance) -> str:
        return KINDS[self.kind].identity(instance)

    def lacks(self, instance: Instance) -> bool:
        return KINDS[self.kind].lacks(instance)

    def make(self, instance: Instance, network: bool = False) -> Sandbox:
        """Return a new sandbox. Raises SandboxFailed if it cannot be made."""
        return KINDS[self.kind].make(instance, self._bounds, network)

    def wait(self) -> None:
        """Return as soon as sandboxes can be made again.

        Raises UserError if that takes too long.
        """
        patience.wait(self.problem)

    def problem(self) -> str:
        """Return why no sandbox can be made now, and what to do; empty if one can be made."""
        return KINDS[self.kind].problem(self._bounds)

    def account(
        self, start: str, ended: Exit | Verdict, detail: str, **server: Any
    ) -> FailedAttempt:
        """Return the account of an attempt that ends now. `server`: the fields about the server."""
        return FailedAttempt(
            start=start,
            end=now(),
            ended=ended,
            detail=detail,
            sandbox_problem=self.problem(),
            free_bytes=shutil.disk_usage(self.scratch).free,
            **server,
        )

    def sweep(self, own: bool = False) -> None:
        KINDS[self.kind].sweep(own)


def choose(spec: Spec, instances: Iterable[Instance]) -> tuple[str, str]:
    """Return the kind of sandbox for these instances, and the manifest's text about the sandbox.

    Raises UserError if no allowed kind can run the instances.
    """
    selected, why = list(instances), ""
    for name in KINDS if spec.sandbox == "auto" else (spec.sandbox,):
        if not (why := KINDS[name].unfit(selected)):
            return name, KINDS[name].check(selected)
    raise UserError(f"{why}.")
