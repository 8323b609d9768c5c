"""The work of the commands `kvci images show`, `pull` and `prune`."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from docker.errors import APIError, ImageNotFound

from kvci.docker import engine
from kvci.files import Document
from kvci.images import image_cache, locks
from kvci.images.base import BASE
from kvci.images.history import STRIPPED, STRIPPED_FROM, is_stripped
from kvci.images.image_build import BUILT
from kvci.images.image_cache import CachedImage
from kvci.images.supply import supply_for
from kvci.plan import blocks, select
from kvci.spec import Spec
from kvci.tasks.dataset import by_id, load
from kvci.tasks.instance import Instance


class CacheReport(Document):
    """The report of `kvci images show`."""

    images: tuple[CachedImage, ...]
    free_bytes: int | None
    """Free space on the engine's disk; None if the engine runs on another machine."""


def cache_report() -> CacheReport:
    """Return the cached images, the least recently needed first, and the free disk space.

    Raises UserError if the engine does not answer.
    """
    images = tuple(image_cache.cached_images())
    return CacheReport(images=images, free_bytes=engine.free_bytes())


def summary(report: CacheReport) -> str:
    """Return one line with the number of images and their size."""
    total_mib = sum(one.unshared_bytes for one in report.images) >> 20
    free = "" if report.free_bytes is None else f"; {report.free_bytes >> 20} MiB are free"
    count = len(report.images)
    return f"{count} images take {total_mib} MiB, without the bytes that they share{free}"


def selected(spec: Spec) -> list[Instance]:
    """Return the instances that the specification selects. Raises UserError if it selects none."""
    known = by_id(load(spec.dataset))
    return [known[name] for name in select(list(known), spec)]


def pull(spec: Spec, ledger: Path, say: Callable[[str], None]) -> bool:
    """Pull the images of as many blocks as the disk can hold; False if no block has its images.

    The run itself pulls the other images, in waves.
    """
    known = by_id(load(spec.dataset))
    planned = blocks(list(known), spec)
    instances = [known[name] for block in planned for name in block.instances]
    if any(instance.files for instance in instances):
        say(f"the instances of {spec.dataset} need no images of their own")
        return True
    supply = supply_for(spec, instances, ledger, say)
    wave = next(supply.waves(planned), [])
    # The first block's images show the size of an image, so choose the wave again.
    rest = [block for block in planned if not supply.lacks(block)]
    if wave and len(wave) < len(rest):
        wave = next(supply.waves(rest), [])
    for line in supply.missing():
        say(line)
    say(f"{len(wave)} of {len(planned)} blocks have their images; details: {ledger}")
    return bool(wave)


def prune(built: bool) -> str:
    """Remove the containers of killed runs, and the cached images; return a line with the result.

    An image that a run or a container needs stays. If `built` is true, also
    remove the images that `kvci images build` made.
    """
    engine.sweep()
    results = [image_cache.evict(one) for one in image_cache.cached_images()]
    _remove_stripped()
    results += map(_remove_built, _built_names()) if built else []
    removed, kept = sum(results), len(results) - sum(results)
    in_use = f"; {kept} images stay because a run or a container needs them" if kept else ""
    return f"removed {removed} images{in_use}"


def _remove_stripped() -> None:
    """Remove the remaining history-stripped images, with and without a name."""
    images = engine.client().images
    for image in images.list(STRIPPED):
        locked = [name for name in image.tags if not locks.is_free(name)]
        for name in image.tags if not locked else ():
            if name.startswith(f"{STRIPPED}:"):
                with contextlib.suppress(APIError):  # a container uses it
                    images.remove(name)
    for image in images.list(all=True, filters={"label": STRIPPED_FROM, "dangling": True}):
        with contextlib.suppress(APIError):  # another image is based on it
            if is_stripped(image):
                images.remove(image.id)


def _built_names() -> list[str]:
    """Return the names that `kvci images build` gave, base images last.

    Another program may have made an image from a built image. That image has the same label, but
    its name differs from the label, so it is left out.
    """
    images = engine.client().images
    built = images.list(filters={"label": BUILT})
    names = [one.labels[BUILT] for one in built if one.labels[BUILT] in one.tags]
    bases = [name for one in images.list(BASE) for name in one.tags]
    return [*names, *(name for name in bases if name.startswith(f"{BASE}:"))]


def _remove_built(name: str) -> bool:
    """Remove a built image; False if a run or a container needs the image."""
    try:
        if locks.is_free(name):
            engine.client().images.remove(name)
            return True
    except ImageNotFound:
        return True
    except APIError as error:
        if error.status_code != image_cache.IN_USE:
            raise
    return False
