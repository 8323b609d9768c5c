"""The verbs of `kvci images`."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from docker.errors import APIError, ImageNotFound

from kvci.errors import UserError
from kvci.files import Document
from kvci.images import holds, shelf
from kvci.images.build import BUILT
from kvci.images.shelf import Kept
from kvci.images.supply import supply_of
from kvci.plan import blocks, select
from kvci.sandbox import engine
from kvci.sandbox.history import OF, STRIPPED, is_made
from kvci.spec import Spec
from kvci.tasks.dataset import load
from kvci.tasks.instance import Instance


class Shelf(Document):
    images: tuple[Kept, ...]
    free_bytes: int | None
    """On the engine's disk; None if that is another machine's."""


def kept() -> Shelf:
    """Images of ours, the least recently needed first. Raises UserError without an engine."""
    return Shelf(images=tuple(shelf.ours()), free_bytes=engine.free_bytes())


def room(found: Shelf) -> str:
    total = sum(one.unshared_bytes for one in found.images) >> 20
    free = "" if found.free_bytes is None else f"; {found.free_bytes >> 20} MiB are free"
    return f"{len(found.images)} images of ours take {total} MiB{free}"


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
    """Remove containers that killed runs left, and images of ours; what was removed."""
    engine.sweep()
    images = engine.client().images
    gone = sum(shelf.let_go(one) for one in shelf.ours())
    for image in images.list(STRIPPED):
        held = [name for name in image.tags if not holds.is_free(name)]
        for name in image.tags if not held else ():
            if name.startswith(f"{STRIPPED}:"):
                with contextlib.suppress(APIError):  # a container has it
                    images.remove(name)
    for image in images.list(all=True, filters={"label": OF, "dangling": True}):
        with contextlib.suppress(APIError):  # another image is made of it
            if is_made(image):
                images.remove(image.id)
    gone += _prune_built() if built else 0
    return f"removed {gone} images"


def _prune_built() -> int:
    """An image that somebody made of one has its label, and another name."""
    images, gone = engine.client().images, 0
    for image in images.list(filters={"label": BUILT}):
        name = image.labels[BUILT]
        if name in image.tags and holds.is_free(name):
            try:
                images.remove(name)
                gone += 1
            except ImageNotFound:
                continue
            except APIError as error:
                raise UserError(f"{name} is in use: {error.explanation}.") from None
    return gone
