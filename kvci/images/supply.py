"""Images here before they are needed, and gone when nothing needs them any more.

A run goes in waves: as many blocks as the disk holds are supplied, run and graded, and their images
stay until the next wave needs the room.
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import NoReturn

from kvci import patience
from kvci.children import ENDING
from kvci.docker import engine
from kvci.errors import UserError
from kvci.files import Document
from kvci.images import image_cache, locks
from kvci.images.history import Unfit, name_of, without_future
from kvci.images.image_cache import Kept
from kvci.images.pull import Entry, Mirror, Puller, Room, State
from kvci.images.registry import login, short
from kvci.plan import Block
from kvci.sandbox import SandboxFailed
from kvci.spec import Spec
from kvci.tasks.instance import Instance
from kvci.threads import background

TRIES = 5
LARGE_MAX = 3
"""So many blocks above the budget, and none within it: all the others would be pulled for
nothing."""


class Ledger(Document):
    """Of each image that was needed what became of it, in the order of need."""

    images: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Budget:
    """What the engine's disk may hold."""

    reserve_bytes: int = 10 << 30
    """Free, whatever else: other programs' and the containers'."""
    ours_bytes: int | None = None
    """Of images of ours, each counted with what it shares with no other."""


@dataclass(frozen=True)
class Gathered:
    """The blocks whose images were asked for, and of those the blocks that have them all."""

    tried: list[Block] = field(default_factory=list)
    here: list[Block] = field(default_factory=list)


class Supply:
    """Supplies blocks with the images of those of their instances that have one."""

    def __init__(
        self,
        instances: Iterable[Instance],
        budget: Budget,
        puller: Puller,
        ledger: Path,
        workers: int = 4,
        beside: bool = False,
    ) -> None:
        """With `beside` the next wave is pulled while this one runs, in half the budget each."""
        rows = [instance.row for instance in instances]
        self._images = {row.instance_id: short(row.image) for row in rows}
        self._bases = {short(row.image): row.base_commit for row in rows}
        self._budget, self._puller = budget, puller
        self._path, self._beside = ledger, beside
        self._workers = threading.Semaphore(workers)
        known = Ledger.read(ledger).images if ledger.exists() else ()
        self._ledger = {entry.image: entry for entry in known}
        self._lock = threading.Lock()
        self._held: set[str] = set()
        self._any = False
        """A block had all its images, within the budget."""
        self._large: list[str] = []
        """What blocks took that are larger than it."""
        self._kept: list[Kept] = []
        """What is on the shelf; asking anew takes seconds, so it is done once a wave."""
        self._names: dict[str, set[str]] = {}
        """Of each image its own, and, if it is here, that of what it is without its future."""

    def waves(self, blocks: Iterable[Block]) -> Iterator[list[Block]]:
        """The blocks in their order, a wave at a time, with their images here.

        While a wave is out, no other kvci process lets its images go. Blocks whose images cannot
        be had now come last, and if that has not changed by then, not at all. Raises UserError if
        the budget holds no block's images. No wave begins when the time budget is over.
        """
        try:
            yield from self._waves(blocks)
        finally:
            self._hold(set())

    def _waves(self, blocks: Iterable[Block]) -> Iterator[list[Block]]:
        todo, late, last = list(blocks), list[Block](), False
        self._kept = []
        for image in self._in_order(todo):
            self._ledger.setdefault(image, Entry(image=image, state="needed"))
        ahead: Future[Gathered] | None = None
        while (todo or (late and not last)) and not self.stopped():
            if not todo:
                todo, late, last = late, [], True
                self._wait_for_room()
            got = ahead.result() if ahead else Gathered()
            if not got.tried:
                got = self._gather(todo, set())
            todo = [block for block in todo if block not in got.tried]
            late += [block for block in got.tried if block not in got.here]
            beside = self._beside and bool(got.here) and bool(todo)
            ahead = background(self._gather, todo, self._of(got.here)) if beside else None
            if got.here:
                yield got.here
        if self._large and not self._any and not self.stopped():
            self._refuse()

    def absent(self, instance: str) -> str:
        """Why this instance's image can never be had; empty if it can."""
        entry = self._ledger.get(self._images.get(instance, ""))
        return entry.why if entry and entry.state == "absent" else ""

    def missing(self) -> list[str]:
        """A line for each image that could not be had."""
        found = [entry for entry in self._ledger.values() if entry.state in ("absent", "failed")]
        return [f"image {entry.image} could not be had: {entry.why}" for entry in found]

    def stopped(self) -> str:
        """Why nothing more is pulled; empty if it is."""
        return self._puller.stopped()

    def _of(self, blocks: Iterable[Block]) -> set[str]:
        return set(self._in_order(blocks))

    def _in_order(self, blocks: Iterable[Block]) -> list[str]:
        names = (name for block in blocks for name in block.instances)
        return list(dict.fromkeys(self._images[name] for name in names if name in self._images))

    def _gather(self, todo: list[Block], keep: set[str]) -> Gathered:
        """Supply as many of these blocks as there is room for beside `keep`.

        An engine that goes away meanwhile is waited for. Raises UserError.
        """
        if not self._of(todo):
            return Gathered(todo, todo)
        for attempt in range(TRIES):
            try:
                return self._gather_once(todo, keep)
            except engine.ENGINE_ERRORS as error:
                why = str(error)[:300]
                ENDING.wait(2**attempt)
                engine.wait()
        raise UserError(f"Docker fails again and again: {why}")

    def _gather_once(self, todo: list[Block], keep: set[str]) -> Gathered:
        self._names.clear()
        self._hold(keep)
        self._kept = self._kept or image_cache.ours()
        wave, lacking = self._choose(todo, keep)
        self._hold(keep | self._of(wave))
        self._make_room(keep | self._of(wave), lacking)
        puller = replace(self._puller, room=self._room(wave))
        images = self._in_order(wave)
        for future in [background(self._supply, image, puller) for image in images]:
            future.result()
        self._names.clear()
        self._hold(keep | self._of(wave))
        had = [block for block in wave if not {"failed", "needed"} & self._states(block)]
        here = self._within(had, keep)
        failed = [block for block in wave if self.lacks(block)]
        self._any = self._any or bool(here)
        return Gathered([*failed, *here], here)

    def _wait_for_room(self) -> None:
        """The last try is not lost on a disk that others filled for a while."""
        if why := self._lacks_room():
            self._puller.say(f"{why}; it is waited for")
        with contextlib.suppress(UserError):
            patience.wait(self._lacks_room, self._puller.patience_s)

    def _lacks_room(self) -> str:
        free = engine.free_bytes()
        if free is None or self.stopped():
            return ""
        going = sum(one.unshared_bytes for one in self._kept if image_cache.free_to_go(one))
        short = free + going < self._budget.reserve_bytes
        return "Docker's disk has no more than its reserve; make room there" if short else ""

    def lacks(self, block: Block) -> bool:
        """An image of its could not be had."""
        return "failed" in self._states(block)

    def _states(self, block: Block) -> set[State]:
        return {self._ledger[image].state for image in self._of([block])}

    def _room(self, wave: list[Block]) -> Room | None:
        """So that the budget holds whatever a wave's images take; None where that cannot be told.

        The first block is pulled in any case, if only to be found too large.
        """
        free, budget = engine.free_bytes(), self._budget.ours_bytes
        if free is None or budget is None:
            return None
        left = max(0, budget - sum(one.unshared_bytes for one in self._kept))
        return Room(free - left, self._of(wave[:1]))

    def _choose(self, todo: list[Block], keep: set[str]) -> tuple[list[Block], int]:
        """The next wave, and the bytes that its images will take as far as can be known."""
        mine = self._named(set(self._bases))
        alike = [one.unshared_bytes for one in self._kept if not mine.isdisjoint(one.names)]
        each = max(alike, default=0)
        here = cache(self._is_here)
        wave: list[Block] = []
        lacking = 0
        for block in todo:
            images = self._of([*wave, block])
            missing = sum(not here(image) for image in images)
            if not self._fits(keep | images, missing * each) and (wave or keep):
                break
            wave, lacking = [*wave, block], missing * each
            if missing and not each:
                # What an image costs is known when the first ones are here; until then there is
                # room for such as others are.
                guess = max((one.unshared_bytes for one in self._kept), default=0)
                return wave, missing * guess
        return wave, lacking

    def _named(self, images: AbstractSet[str]) -> set[str]:
        """All names of these images; the engine is asked once a wave for each."""
        for image in images - self._names.keys():
            self._names[image] = {image, name_of(image, self._bases[image])} - {""}
        return set().union(*(self._names[image] for image in images))

    def _is_here(self, image: str) -> bool:
        """As trials need it."""
        names = self._named({image})
        return len(names) == 2 and all(map(engine.has, names))

    def _fits(self, images: AbstractSet[str], more_bytes: int) -> bool:
        staying = self._staying(images)
        needed = self._named(images)
        going = sum(
            one.unshared_bytes
            for one in self._kept
            if needed.isdisjoint(one.names) and image_cache.free_to_go(one)
        )
        free = engine.free_bytes()
        budget = self._budget.ours_bytes
        share = 2 if self._beside else 1
        if budget is not None and staying + more_bytes > budget / share:
            return False
        return free is None or free + going - more_bytes >= self._budget.reserve_bytes

    def _staying(self, images: AbstractSet[str]) -> int:
        needed = self._named(images)
        return sum(one.unshared_bytes for one in self._kept if not needed.isdisjoint(one.names))

    def _make_room(self, images: AbstractSet[str], more_bytes: int) -> bool:
        """Let go what is needed least recently, as far as these bytes and the reserve ask; True if
        anything went."""
        needed, gone = self._named(images), False
        total = sum(one.unshared_bytes for one in self._kept)
        for one in [one for one in self._kept if needed.isdisjoint(one.names)]:
            free = engine.free_bytes()
            budget = self._budget.ours_bytes
            over = budget is not None and total + more_bytes > budget
            short = free is not None and free - more_bytes < self._budget.reserve_bytes
            if not over and not short:
                break
            if image_cache.let_go(one):
                gone = True
                total -= one.unshared_bytes
                self._kept.remove(one)
                for name in one.names:
                    if name in self._ledger:
                        why = {"state": "let go", "why": "to make room"}
                        self._note(self._ledger[name].model_copy(update=why))
        return gone

    def _hold(self, images: AbstractSet[str]) -> None:
        needed = self._named(images)
        for image in self._held - needed:
            locks.release(image)
        for image in needed - self._held:
            locks.hold(image)
        self._held = needed

    def _within(self, wave: list[Block], keep: set[str]) -> list[Block]:
        """What is within the budget now that the costs are known.

        A block that is too large comes last, with the others that cannot be had now.
        """
        self._kept, budget = image_cache.ours(), self._budget.ours_bytes
        while budget is not None:
            needed = keep | self._of(wave)
            if self._make_room(needed, 0):
                self._kept = (
                    image_cache.ours()
                )  # what shared bytes with those that went, has them alone
                continue
            staying = self._staying(needed)
            if staying <= budget or not wave:
                break
            if len(wave) == 1 and not keep:
                why = (
                    f"the images of one block take {staying >> 20} MiB, and the disk budget is "
                    f"{budget >> 20} MiB"
                )
                self._large.append(why)
                if len(self._large) >= LARGE_MAX and not self._any:
                    self._refuse()
                failed = {"state": "failed", "why": why}
                for image in self._of(wave):
                    self._note(self._ledger[image].model_copy(update=failed))
                return []
            wave = wave[:-1]
        return wave

    def _refuse(self) -> NoReturn:
        why = self._large[0]
        raise UserError(f"{why[0].upper()}{why[1:]}; raise it or make block_size smaller.")

    def _supply(self, image: str, puller: Puller) -> None:
        """Have one image here; the ledger says what became of it."""
        with self._workers:
            self._have(image, puller)

    def _have(self, image: str, puller: Puller) -> None:
        if engine.has(image):
            if image_cache.is_ours(image):
                image_cache.mark(image)
            try:
                name = without_future(image, self._bases[image])
            except SandboxFailed as error:
                state: State = "absent" if isinstance(error, Unfit) else "failed"
                self._note(Entry(image=image, state=state, why=str(error)))
                return
            self._note(Entry(image=image, state="present", id=name))
            return
        self._note(Entry(image=image, state="pulling"))
        self._note(puller.pull(image, self._bases[image]))

    def _note(self, entry: Entry) -> None:
        with self._lock:
            self._ledger[entry.image] = entry
            try:
                Ledger(images=tuple(self._ledger.values())).write(self._path)
            except OSError as error:
                raise UserError(f"{self._path} cannot be written: {error.strerror}.") from None


def supply_of(
    spec: Spec, instances: Iterable[Instance], ledger: Path, say: Callable[[str], None]
) -> Supply:
    """As the spec has it; a login comes from the environment, or is what `docker login` left.

    The time budget begins now.
    """
    reserve, ours = int(1e9 * spec.disk_reserve_gb), spec.disk_budget_gb
    until = time.monotonic() + (spec.time_budget_s or math.inf)
    mirror = Mirror(spec.mirror) if spec.mirror else None
    puller = Puller(mirror, login(), reserve, until_s=until, say=say)
    budget = Budget(reserve, None if ours is None else int(1e9 * ours))
    return Supply(instances, budget, puller, ledger, spec.pull_workers, spec.pull_beside)
