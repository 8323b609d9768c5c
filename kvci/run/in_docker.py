"""Run trials in Docker.

A trial runs in the image of its instance. If the instance has its own files, the trial runs in a
base image into which kvci copies the files.
"""

from collections.abc import Sequence

from kvci.docker import engine
from kvci.errors import UserError
from kvci.images import history
from kvci.run.bounds import Bounds
from kvci.sandbox import Sandbox, cgroup
from kvci.sandbox.container import Docker
from kvci.tasks.instance import Instance

HAS_NETWORK = True
"""True: Docker can give grading a network."""


def unfit(instances: Sequence[Instance]) -> str:
    """Return an empty text, because Docker can run every instance."""
    return ""


def check(instances: Sequence[Instance]) -> str:
    """Return the manifest's text: the version of the Docker engine.

    Raises UserError if the Docker engine does not answer or has no base image.
    """
    version = engine.check()
    for image in {instance.row.image for instance in instances if instance.files}:
        if not engine.has(image):
            raise UserError(
                f"Docker has no image {image}; build it with "
                f"docker build -t {image} ci/images/calibration."
            )
    return f"docker {version}"


def identity(instance: Instance) -> str:
    """Return a text that identifies the instance's image; empty if there is no such image."""
    return "" if instance.files else history.identity(instance.row.image)


def lacks(instance: Instance) -> bool:
    """True if the Docker engine reports that the instance's image is not on this machine.

    False if the Docker engine does not answer.
    """
    try:
        return not engine.has(instance.row.image)
    except (*engine.ENGINE_ERRORS, UserError):
        return False


def make(instance: Instance, bounds: Bounds, network: bool) -> Sandbox:
    """Return a new sandbox. Raises SandboxFailed if it cannot be made."""
    image, base = instance.row.image, instance.row.base_commit
    name = image if instance.files else history.history_stripped(image, base)
    return Docker(name, instance.files, bounds.caps, network, bounds.run)


def problem(bounds: Bounds) -> str:
    """Return why no sandbox can be made now, and what to do; empty if one can be made."""
    return engine.problem()


def sweep(own: bool) -> None:
    """Remove the containers of kvci processes that were killed.

    If `own` is true, also remove the containers of this process.
    """
    cgroup.sweep()
    engine.sweep(own)
