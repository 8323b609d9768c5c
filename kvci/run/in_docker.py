"""Trials in Docker: in the instance's image, or in one that kvci's own files are put into."""

from collections.abc import Sequence

from kvci.docker import engine
from kvci.errors import UserError
from kvci.images import history
from kvci.run.bounds import Bounds
from kvci.sandbox import Sandbox, cgroup
from kvci.sandbox.container import Docker
from kvci.tasks.instance import Instance


def unfit(instances: Sequence[Instance]) -> str:
    """Empty: Docker can run every instance."""
    return ""


def check(instances: Sequence[Instance]) -> str:
    """The engine's version, for the manifest. Raises UserError if it does not answer, or lacks the
    image that kvci's own files are put into."""
    version = engine.check()
    for image in {instance.row.image for instance in instances if instance.files}:
        if not engine.has(image):
            raise UserError(
                f"Docker has no image {image}; make it with "
                f"docker build -t {image} ci/images/calibration."
            )
    return f"docker {version}"


def identity(instance: Instance) -> str:
    """What tells the instance's image from all others; empty where it has none of its own."""
    return "" if instance.files else history.identity(instance.row.image)


def lacks(instance: Instance) -> bool:
    """True if the instance's image is not on this machine. An engine that does not answer tells
    nothing about that."""
    try:
        return not engine.has(instance.row.image)
    except (*engine.GONE, UserError):
        return False


def make(instance: Instance, bounds: Bounds, network: bool) -> Sandbox:
    """Raises SandboxFailed."""
    image, base = instance.row.image, instance.row.base_commit
    name = image if instance.files else history.history_stripped(image, base)
    return Docker(name, instance.files, bounds.caps, network, bounds.run)


def wait(bounds: Bounds) -> None:
    """Return when sandboxes can be made again. Raises UserError if that takes too long."""
    engine.wait()


def sweep(own: bool) -> None:
    """Remove what killed kvci processes left, and with `own` what this one still has."""
    cgroup.sweep()
    engine.sweep(own)
