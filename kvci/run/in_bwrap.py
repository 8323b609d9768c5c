"""Trials in bubblewrap, for instances whose files kvci has itself."""

import subprocess
from collections.abc import Sequence

from kvci.run.bounds import Bounds
from kvci.sandbox import Sandbox, SandboxFailed, bwrap, cgroup
from kvci.sandbox.bwrap import Bwrap
from kvci.tasks.instance import Instance


def unfit(instances: Sequence[Instance]) -> str:
    """Why bubblewrap cannot run these instances; empty if it can."""
    images = [instance for instance in instances if not instance.files]
    if not images:
        return ""
    return f"{images[0].row.instance_id} needs a Docker image; use --sandbox docker"


def check(instances: Sequence[Instance]) -> str:
    """What limits the sandbox here, for the manifest. Raises UserError if it cannot be made."""
    return f"bwrap, {bwrap.check()}"


def identity(instance: Instance) -> str:
    """Empty: no image is involved."""
    return ""


def lacks(instance: Instance) -> bool:
    return False


def make(instance: Instance, bounds: Bounds, network: bool) -> Sandbox:
    """Raises SandboxFailed. There is no network to give."""
    try:
        return Bwrap(instance.files, bounds.scratch, bounds.caps)
    except (OSError, subprocess.SubprocessError) as error:
        raise SandboxFailed(f"the work tree could not be made: {error}") from None


def wait(bounds: Bounds) -> None:
    """Return when sandboxes can be made again. Raises UserError if that takes too long."""
    bwrap.wait(bounds.scratch)


def sweep(own: bool) -> None:
    """End what killed kvci processes left running."""
    cgroup.sweep()
