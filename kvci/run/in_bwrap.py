"""Run trials in bubblewrap. This works for instances whose files come with kvci."""

import subprocess
from collections.abc import Sequence

from kvci.run.bounds import Bounds
from kvci.sandbox import Sandbox, SandboxFailed, bwrap, cgroup
from kvci.sandbox.bwrap import Bwrap
from kvci.tasks.instance import Instance

HAS_NETWORK = False
"""False: bubblewrap cannot give grading a network."""


def unfit(instances: Sequence[Instance]) -> str:
    """Return why bubblewrap cannot run these instances; empty if it can."""
    images = [instance for instance in instances if not instance.files]
    if not images:
        return ""
    return f"{images[0].row.instance_id} needs a Docker image; use --sandbox docker"


def check(instances: Sequence[Instance]) -> str:
    """Return the manifest's text: how this machine limits the sandbox.

    Raises UserError if bubblewrap cannot make a sandbox.
    """
    return f"bwrap, {bwrap.check()}"


def identity(instance: Instance) -> str:
    """Return an empty text, because these instances have no image."""
    return ""


def lacks(instance: Instance) -> bool:
    return False


def make(instance: Instance, bounds: Bounds, network: bool) -> Sandbox:
    """Return a new sandbox without a network. Raises SandboxFailed if it cannot be made."""
    try:
        return Bwrap(instance.files, bounds.scratch, bounds.caps)
    except (OSError, subprocess.SubprocessError) as error:
        raise SandboxFailed(f"cannot make the work tree: {error}") from None


def problem(bounds: Bounds) -> str:
    """Return why no sandbox can be made now, and what to do; empty if one can be made."""
    return bwrap.problem(bounds.scratch)


def sweep(own: bool) -> None:
    """End processes that were started by a kvci process that was killed."""
    cgroup.sweep()
