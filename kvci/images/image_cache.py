"""The images of ours that the engine has, and how they are let go.

What is ours the engine itself knows: each name that kvci pulled has a second one, made of its
hash, on the same image. So a killed kvci loses nothing, and nobody else's image is taken for ours.
"""

import contextlib
import hashlib
from collections.abc import Collection, Iterator

from docker.errors import APIError, ImageNotFound

from kvci.docker import engine
from kvci.files import Document
from kvci.images import in_flight, locks
from kvci.images.history import STRIPPED
from kvci.images.registry import parts

PULLED = "kvci/pulled"
IN_USE = 409
"""HTTP's status for what a container needs."""


class Kept(Document):
    """One image of ours. `unshared_bytes` come free when it goes."""

    id: str
    names: tuple[str, ...]
    unshared_bytes: int
    needed: str
    """When it was last needed; texts of the engine's that sort as times do."""


def mark(name: str) -> None:
    """This image is ours, and is needed now."""
    engine.client().images.get(name).tag(PULLED, _hash(name))


def is_ours(name: str) -> bool:
    """True if kvci pulled what this name means now."""
    try:
        found = engine.client().images.get(name)
    except ImageNotFound:
        return False
    return f"{PULLED}:{_hash(name)}" in found.tags


def ours() -> list[Kept]:
    """The least recently needed first; an image that has another's name too is not ours.

    What a killed process pulled is marked before. Asking takes the engine seconds.
    """
    for name in in_flight.left():
        mark(name)
    kept = []
    for one in engine.images_with_sizes():
        names = _ours(one["RepoTags"] or [])
        if names and len(names) == len(one["RepoTags"]):
            try:
                attrs = engine.client().images.get(one["Id"]).attrs
            except ImageNotFound:
                continue  # another process has let it go meanwhile
            unshared = one["Size"] - max(0, one["SharedSize"])
            needed = attrs["Metadata"]["LastTagTime"]
            kept.append(Kept(id=one["Id"], names=names, unshared_bytes=unshared, needed=needed))
    return sorted(kept, key=lambda one: one.needed)


def let_go(kept: Kept) -> bool:
    """Remove the names that are ours; False if another process or a container needs the image."""
    with _unheld(kept) as free:
        if not free or engine.client().api.containers(all=True, filters={"ancestor": kept.id}):
            return False
        for name in kept.names:
            try:
                engine.client().images.remove(name)
            except ImageNotFound:
                continue
            except APIError as error:
                if error.status_code == IN_USE:
                    return False
                raise
        return True


def free_to_go(kept: Kept) -> bool:
    """True if no other process needs it."""
    with _unheld(kept) as free:
        return free


@contextlib.contextmanager
def _unheld(kept: Kept) -> Iterator[bool]:
    with contextlib.ExitStack() as stack:
        yield all([stack.enter_context(locks.unheld(name)) for name in kept.names])


def _hash(name: str) -> str:
    registry, repository, tag = parts(name)
    return hashlib.sha256(f"{registry}/{repository}:{tag}".encode()).hexdigest()[:24]


def _ours(names: Collection[str]) -> tuple[str, ...]:
    """The marks among an image's names last, so that an image half let go is still ours."""
    marks = [name for name in names if name.startswith((f"{PULLED}:", f"{STRIPPED}:"))]
    pulled = [name for name in names if f"{PULLED}:{_hash(name)}" in marks]
    return (*pulled, *marks)
