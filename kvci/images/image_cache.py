"""The image cache: the images that kvci pulled or stripped, and their eviction.

The engine itself stores which images are kvci's: each image that kvci pulled has a second name,
made from the hash of the first name. So this information survives if kvci is killed, and kvci never
evicts another program's image.
"""

import contextlib
from collections.abc import Collection, Iterator

from docker.errors import APIError, ImageNotFound

from kvci.docker import engine
from kvci.files import Document, sha256_of
from kvci.images import in_flight, locks
from kvci.images.history import STRIPPED
from kvci.images.names import parse_name

PULLED = "kvci/pulled"
IN_USE = 409
"""The HTTP status for an image that a container uses."""


class CachedImage(Document):
    """One image of the cache. Evicting it frees `unshared_bytes`."""

    id: str
    names: tuple[str, ...]
    unshared_bytes: int
    needed: str
    """When the image was last needed, as a text of the engine. These texts sort by time."""


def mark(name: str) -> None:
    """Record that kvci pulled this image and that it is needed now."""
    engine.client().images.get(name).tag(PULLED, _hash(name))


def is_cached(name: str) -> bool:
    """True if kvci pulled the image that has this name now."""
    try:
        found = engine.client().images.get(name)
    except ImageNotFound:
        return False
    return f"{PULLED}:{_hash(name)}" in found.tags


def cached_images() -> list[CachedImage]:
    """Return the images of the cache, the least recently needed first.

    An image that also has another program's name is left out. Images that a killed process pulled
    are marked first. The engine takes seconds to answer.
    """
    for name in in_flight.take_abandoned():
        mark(name)
    cached = []
    for one in engine.images_with_sizes():
        names = _cache_names(one["RepoTags"] or [])
        if names and len(names) == len(one["RepoTags"]):
            try:
                attrs = engine.client().images.get(one["Id"]).attrs
            except ImageNotFound:
                continue  # another process has just evicted it
            unshared = one["Size"] - max(0, one["SharedSize"])
            needed = attrs["Metadata"]["LastTagTime"]
            cached.append(
                CachedImage(id=one["Id"], names=names, unshared_bytes=unshared, needed=needed)
            )
    return sorted(cached, key=lambda image: image.needed)


def evict(image: CachedImage) -> bool:
    """Remove the image's names; False if another process or a container needs the image."""
    with _exclusive(image) as free:
        if not free or engine.client().api.containers(all=True, filters={"ancestor": image.id}):
            return False
        for name in image.names:
            try:
                engine.client().images.remove(name)
            except ImageNotFound:
                continue
            except APIError as error:
                if error.status_code == IN_USE:
                    return False
                raise
        return True


def is_unlocked(image: CachedImage) -> bool:
    """True if no other process needs the image."""
    with _exclusive(image) as free:
        return free


@contextlib.contextmanager
def _exclusive(image: CachedImage) -> Iterator[bool]:
    with contextlib.ExitStack() as stack:
        yield all([stack.enter_context(locks.exclusive(name)) for name in image.names])


def _hash(name: str) -> str:
    registry, repository, tag = parse_name(name)
    return sha256_of(f"{registry}/{repository}:{tag}".encode())[:24]


def _cache_names(names: Collection[str]) -> tuple[str, ...]:
    """Return an image's marks, and those of its names that kvci pulled.

    The marks come last. So an image still belongs to the cache if its eviction stops early.
    """
    marks = [name for name in names if name.startswith((f"{PULLED}:", f"{STRIPPED}:"))]
    pulled = [name for name in names if f"{PULLED}:{_hash(name)}" in marks]
    return (*pulled, *marks)
