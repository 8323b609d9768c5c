"""The verbs of `kvci images`."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from docker.errors import APIError, ImageNotFound

from kvci.docker import engine
from kvci.files import Document
from kvci.images import image_cache, locks
from kvci.images.base import BASE
from kvci.images.build import BUILT
from kvci.images.history import OF, STRIPPED, is_made
from kvci.images.image_cache import Kept
from kvci.images.supply import supply_of
from kvci.plan import blocks, select
from kvci.spec import Spec
from kvci.tasks.dataset import load
from kvci.tasks.instance import Instance


class Shelf(Document):
    images: tuple[Kept, ...]
    free_bytes: int | None
    """On the engine's disk; None if that is another machine's."""


def kept() -> Shelf:
    """Images of ours, the least recently needed first. Raises UserError without an engine."""
    return Shelf(images=tuple(image_cache.ours()), free_bytes=engine.free_bytes())


def room(found: Shelf) -> str:
    total = sum(one.unshared_bytes for one in found.images) >> 20
    free = "" if found.free_bytes is None else f"; {found.free_bytes >> 20} MiB are free"
    count = len(found.images)
    return f"{count} images of ours take {total} MiB, each without what it shares{free}"


def chosen(spec: Spec) -> list[Instance]:
    """The instances that the spec selects. Raises UserError if there are none."""
    known = {one.row.instance_id: one for one in load(spec.dataset)}
    return [known[name] for name in select(list(known), spec)]


def pull(spec: Spec, ledger: Path, say: Callable[[str], None]) -> bool:
    """Have as many blocks' images here as the disk holds; False if not one block can begin.

    What is left comes while the run goes on, a wave at a time.
    """
    known = {one.row.instance_id: one for one in load(spec.dataset)}
    planned = blocks(list(known), spec)
    mine = [known[name] for block in planned for name in block.instances]
    if any(instance.files for instance in mine):
        say(f"the instances of {spec.dataset} need no images of their own")
        return True
    supply = supply_of(spec, mine, ledger, say)
    wave = next(supply.waves(planned), [])
    # What an image costs is known when the first block's are here; so once more, from the start.
    rest = [block for block in planned if not supply.lacks(block)]
    if wave and len(wave) < len(rest):
        wave = next(supply.waves(rest), [])
    for line in supply.missing():
        say(line)
    say(f"{len(wave)} of {len(planned)} blocks have their images; {ledger} says more")
    return bool(wave)


def prune(built: bool) -> str:
    """Remove containers that killed runs left, and images of ours; what was removed, and how many
    images stay because somebody needs them."""
    engine.sweep()
    images = engine.client().images
    went = [image_cache.let_go(one) for one in image_cache.ours()]
    for image in images.list(STRIPPED):
        held = [name for name in image.tags if not locks.is_free(name)]
        for name in image.tags if not held else ():
            if name.startswith(f"{STRIPPED}:"):
                with contextlib.suppress(APIError):  # a container has it
                    images.remove(name)
    for image in images.list(all=True, filters={"label": OF, "dangling": True}):
        with contextlib.suppress(APIError):  # another image is made of it
            if is_made(image):
                images.remove(image.id)
    went += map(_goes, _built()) if built else []
    gone, left = sum(went), len(went) - sum(went)
    stay = f"; {left} stay, for a run or a container needs them" if left else ""
    return f"removed {gone} images{stay}"


def _built() -> list[str]:
    """The names of what kvci images build made, what all of it is made on last. An image that
    somebody made of one has its label, and another name."""
    images = engine.client().images
    made = images.list(filters={"label": BUILT})
    names = [one.labels[BUILT] for one in made if one.labels[BUILT] in one.tags]
    bases = [name for one in images.list(BASE) for name in one.tags]
    return [*names, *(name for name in bases if name.startswith(f"{BASE}:"))]


def _goes(name: str) -> bool:
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
