"""The image cache: the images that kvci pulled or stripped, and how they are evicted.

The engine itself remembers which images are kvci's: each name that kvci pulled has a second one,
made of its hash, on the same image. So a killed kvci loses nothing, and kvci takes no other
program's image for its own.
"""

import contextlib
import hashlib
from collections.abc import Collection, Iterator

from docker.errors import APIError, ImageNotFound

from kvci.docker import engine
from kvci.files import Document
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
    """When it was last needed: the engine's text, which sorts as the time does."""


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
    """The images of the cache, the least recently needed first.

    An image that also has another program's name is not one of them. What a killed process pulled
    is marked first. The engine takes seconds to answer.
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
    """Remove the image's names; False if another process or a container needs it."""
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
    """True if no other process needs it."""
    with _exclusive(image) as free:
        return free


@contextlib.contextmanager
def _exclusive(image: CachedImage) -> Iterator[bool]:
    with contextlib.ExitStack() as stack:
        yield all([stack.enter_context(locks.exclusive(name)) for name in image.names])


def _hash(name: str) -> str:
    registry, repository, tag = parse_name(name)
    return hashlib.sha256(f"{registry}/{repository}:{tag}".encode()).hexdigest()[:24]


def _cache_names(names: Collection[str]) -> tuple[str, ...]:
    """Those of an image's names that the cache gave or marked.

    The marks come last, so that a half-evicted image still belongs to the cache.
    """
    marks = [name for name in names if name.startswith((f"{PULLED}:", f"{STRIPPED}:"))]
    pulled = [name for name in names if f"{PULLED}:{_hash(name)}" in marks]
    return (*pulled, *marks)
