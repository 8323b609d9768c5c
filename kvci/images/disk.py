"""The engine's disk during one run: which images fit, which images stay, which are evicted."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from kvci.docker import engine
from kvci.images import image_cache, locks
from kvci.images.disk_watch import DiskWatch
from kvci.images.history import stripped_name
from kvci.images.image_cache import CachedImage
from kvci.images.ledger import LedgerFile


@dataclass(frozen=True)
class Budget:
    """The space that images may take on the engine's disk."""

    reserve_bytes: int = 10 << 30
    """The space that must stay free for containers and other programs."""
    cache_bytes: int | None = None
    """The most that the image cache may take, without bytes that images share; None: no limit."""


class Disk:
    """The image cache during one run. This class locks the images that the run needs now."""

    def __init__(
        self, budget: Budget, bases: Mapping[str, str], ledger: LedgerFile, share: int = 1
    ) -> None:
        """`bases`: image of the run -> base commit. A wave may take 1/`share` of the budget."""
        self.budget, self._bases, self._ledger, self._share = budget, bases, ledger, share
        self._cached: list[CachedImage] = []
        """The cached images. They are listed once in each wave, because a list takes seconds."""
        self._names: dict[str, set[str]] = {}
        """Image -> its name and, if the engine has the image, its history-stripped image's name."""
        self._locked: set[str] = set()

    def forget(self) -> None:
        """Drop the list of cached images, because another run may have changed them."""
        self._cached = []

    def refresh(self) -> None:
        self._cached = image_cache.cached_images()

    def load(self) -> None:
        """List the cached images if they are not known."""
        self._cached = self._cached or image_cache.cached_images()

    def forget_names(self) -> None:
        """Drop the known names, because new images have arrived."""
        self._names.clear()

    def lock(self, images: AbstractSet[str]) -> None:
        """Lock exactly these images against eviction by other processes."""
        needed = self._all_names(images)
        for name in self._locked - needed:
            locks.unlock(name)
        for name in needed - self._locked:
            locks.lock(name)
        self._locked = needed

    def is_ready(self, image: str) -> bool:
        """True if the engine has the image and its history-stripped image."""
        names = self._all_names({image})
        return len(names) == 2 and all(map(engine.has, names))

    def largest_of_run(self) -> int:
        """Return the bytes of the largest cached image that this run needs; 0 if none is cached."""
        names = self._all_names(set(self._bases))
        sizes = (one.unshared_bytes for one in self._cached if not names.isdisjoint(one.names))
        return max(sizes, default=0)

    def largest(self) -> int:
        """Return the bytes of the largest cached image of any run."""
        return max((one.unshared_bytes for one in self._cached), default=0)

    def fits(self, images: AbstractSet[str], more_bytes: int) -> bool:
        """True if these images can stay and `more_bytes` can be added."""
        budget_bytes, free_bytes = self.budget.cache_bytes, engine.free_bytes()
        needed_bytes = self.used_bytes(images) + more_bytes
        if budget_bytes is not None and needed_bytes > budget_bytes / self._share:
            return False
        if free_bytes is None:
            return True
        evictable_bytes = _evictable_bytes(self._others(images))
        return free_bytes + evictable_bytes - more_bytes >= self.budget.reserve_bytes

    def used_bytes(self, images: AbstractSet[str]) -> int:
        """Return the bytes that these images take in the cache."""
        names = self._all_names(images)
        return sum(one.unshared_bytes for one in self._cached if not names.isdisjoint(one.names))

    def make_room(self, images: AbstractSet[str], more_bytes: int) -> bool:
        """Evict images other than these, until `more_bytes` fit; True if an image was evicted.

        The least recently needed images are evicted first.
        """
        evicted, total_bytes = False, sum(one.unshared_bytes for one in self._cached)
        for one in self._others(images):
            if not self._needs_room(total_bytes, more_bytes):
                break
            if image_cache.evict(one):
                evicted = True
                total_bytes -= one.unshared_bytes
                self._cached.remove(one)
                for name in one.names:
                    if self._ledger.has(name):
                        self._ledger.change(name, "evicted", "to free disk space")
        return evicted

    def lacks_space(self) -> str:
        """Return what is wrong if eviction cannot restore the disk's reserve; empty if it can."""
        free_bytes = engine.free_bytes()
        if free_bytes is None:
            return ""
        if free_bytes + _evictable_bytes(self._cached) >= self.budget.reserve_bytes:
            return ""
        return "Docker's disk has less free space than its reserve; free some space there"

    def watch(self, exempt: AbstractSet[str]) -> DiskWatch | None:
        """Return a watch that keeps the budget during pulls.

        None if there is no budget or the engine runs on another machine.
        """
        free_bytes, budget_bytes = engine.free_bytes(), self.budget.cache_bytes
        if free_bytes is None or budget_bytes is None:
            return None
        left_bytes = max(0, budget_bytes - sum(one.unshared_bytes for one in self._cached))
        return DiskWatch(free_bytes - left_bytes, exempt)

    def _needs_room(self, total_bytes: int, more_bytes: int) -> bool:
        free_bytes, budget_bytes = engine.free_bytes(), self.budget.cache_bytes
        if budget_bytes is not None and total_bytes + more_bytes > budget_bytes:
            return True
        return free_bytes is not None and free_bytes - more_bytes < self.budget.reserve_bytes

    def _others(self, images: AbstractSet[str]) -> list[CachedImage]:
        """Return the cached images other than these."""
        names = self._all_names(images)
        return [one for one in self._cached if names.isdisjoint(one.names)]

    def _all_names(self, images: AbstractSet[str]) -> set[str]:
        """Return all names of these images. In each wave, ask the engine once about each image."""
        for image in images - self._names.keys():
            self._names[image] = {image, stripped_name(image, self._bases[image])} - {""}
        return set().union(*(self._names[image] for image in images))


def _evictable_bytes(images: Iterable[CachedImage]) -> int:
    return sum(one.unshared_bytes for one in images if image_cache.is_unlocked(one))
