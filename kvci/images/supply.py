"""Pulls images before blocks need them, in waves of blocks, within the disk budget.

A wave has as many blocks as the disk has space for. The images of a wave stay until a later wave
needs their space.
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import NoReturn

from kvci import patience
from kvci.children import ENDING
from kvci.docker import engine
from kvci.errors import UserError
from kvci.images import image_cache
from kvci.images.disk import Budget, Disk
from kvci.images.gate import Mirror
from kvci.images.history import CannotStrip, history_stripped
from kvci.images.ledger import Entry, LedgerFile, State
from kvci.images.logins import login
from kvci.images.names import engine_name
from kvci.images.pull import Puller
from kvci.plan import Block
from kvci.sandbox import SandboxFailed
from kvci.spec import Spec
from kvci.tasks.instance import Instance
from kvci.threads import background

TRIES = 5
TOO_LARGE_MAX = 3
"""The run stops after this many blocks above the budget, if no block was within it."""


@dataclass(frozen=True)
class Gathered:
    """The blocks whose images kvci tried to pull, and the blocks that have all their images."""

    tried: list[Block] = field(default_factory=list)
    ready: list[Block] = field(default_factory=list)


class Supply:
    """Pulls the images of a run's instances, in waves of blocks."""

    def __init__(
        self,
        instances: Iterable[Instance],
        budget: Budget,
        puller: Puller,
        ledger: Path,
        workers: int = 4,
        prefetch: bool = False,
    ) -> None:
        """With `prefetch` the next wave is pulled during a wave; each has half the budget."""
        rows = [instance.row for instance in instances]
        self._images = {row.instance_id: engine_name(row.image) for row in rows}
        self._bases = {engine_name(row.image): row.base_commit for row in rows}
        self._puller, self._prefetch = puller, prefetch
        self._workers = threading.Semaphore(workers)
        self._ledger = LedgerFile(ledger)
        self._disk = Disk(budget, self._bases, self._ledger, share=2 if prefetch else 1)
        self._one_fits = False
        """True if a block had all its images, within the budget."""
        self._too_large: list[str] = []
        """One reason for each block whose images take more than the budget."""

    def waves(self, blocks: Iterable[Block]) -> Iterator[list[Block]]:
        """Yield the blocks in their order, in waves, after their images are pulled.

        Until the next wave no other kvci process evicts these images. Blocks whose images cannot
        be pulled now are tried once more at the end. No wave starts after the time budget is over.
        Raises UserError if the images of every single block take more than the disk budget.
        """
        try:
            yield from self._waves(blocks)
        finally:
            self._disk.lock(set())

    def _waves(self, blocks: Iterable[Block]) -> Iterator[list[Block]]:
        todo, deferred, last_try = list(blocks), list[Block](), False
        self._disk.forget()
        self._ledger.expect(self._in_order(todo))
        ahead: Future[Gathered] | None = None
        while (todo or (deferred and not last_try)) and not self.stopped():
            if not todo:
                todo, deferred, last_try = deferred, [], True
                self._wait_for_space()
            got = ahead.result() if ahead else Gathered()
            if not got.tried:
                got = self._gather(todo, set())
            todo = [block for block in todo if block not in got.tried]
            deferred += [block for block in got.tried if block not in got.ready]
            prefetch = self._prefetch and bool(got.ready) and bool(todo)
            ahead = background(self._gather, todo, self._of(got.ready)) if prefetch else None
            if got.ready:
                yield got.ready
        if self._too_large and not self._one_fits and not self.stopped():
            self._refuse()

    def absent(self, instance: str) -> str:
        """Return why this instance's image can never be pulled; empty if a pull may succeed."""
        entry = self._ledger.entry(self._images.get(instance, ""))
        return entry.why if entry and entry.state == "absent" else ""

    def missing(self) -> list[str]:
        """Return a line for each image that is not available."""
        return [
            f"image {entry.image} is not available: {entry.why}"
            for entry in self._ledger.entries()
            if entry.state in ("absent", "failed")
        ]

    def stopped(self) -> str:
        """Return why pulls stop now; empty if they continue."""
        return self._puller.stopped()

    def lacks(self, block: Block) -> bool:
        """True if the pull of one of the block's images failed."""
        return "failed" in self._states(block)

    def _states(self, block: Block) -> set[State]:
        return self._ledger.states(self._of([block]))

    def _of(self, blocks: Iterable[Block]) -> set[str]:
        """Return the images of these blocks."""
        return set(self._in_order(blocks))

    def _in_order(self, blocks: Iterable[Block]) -> list[str]:
        names = (name for block in blocks for name in block.instances)
        return list(dict.fromkeys(self._images[name] for name in names if name in self._images))

    def _gather(self, todo: list[Block], keep: set[str]) -> Gathered:
        """Pull the images of as many of these blocks as fit together with the images `keep`.

        If the engine stops answering, wait until it answers again. Raises UserError if the engine
        fails TRIES times, or does not answer for too long.
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
        raise UserError(
            f"Docker failed {TRIES} times in a row ({why}); restart it, then run the same "
            "command again."
        )

    def _gather_once(self, todo: list[Block], keep: set[str]) -> Gathered:
        disk = self._disk
        disk.forget_names()
        disk.lock(keep)
        disk.load()
        wave, lacking_bytes = self._choose(todo, keep)
        disk.lock(keep | self._of(wave))
        disk.make_room(keep | self._of(wave), lacking_bytes)
        # The first block is always pulled, even if its images turn out to be too large.
        puller = replace(self._puller, watch=disk.watch(self._of(wave[:1])))
        images = self._in_order(wave)
        for future in [background(self._supply, image, puller) for image in images]:
            future.result()
        disk.forget_names()
        disk.lock(keep | self._of(wave))
        complete = [block for block in wave if not {"failed", "needed"} & self._states(block)]
        ready = self._within_budget(complete, keep)
        failed = [block for block in wave if self.lacks(block)]
        self._one_fits = self._one_fits or bool(ready)
        return Gathered([*failed, *ready], ready)

    def _wait_for_space(self) -> None:
        """Wait until the disk has space. Otherwise the last try would fail if it is full now."""

        def lacks_space() -> str:
            return "" if self.stopped() else self._disk.lacks_space()

        if why := lacks_space():
            self._puller.say(f"waiting for disk space: {why}")
        with contextlib.suppress(UserError):
            patience.wait(lacks_space, self._puller.patience_s)

    def _choose(self, todo: list[Block], keep: set[str]) -> tuple[list[Block], int]:
        """Return the next wave, and the bytes that its missing images are expected to take."""
        each_bytes = self._disk.largest_of_run()
        is_ready = cache(self._disk.is_ready)
        wave: list[Block] = []
        lacking_bytes = 0
        for block in todo:
            images = self._of([*wave, block])
            missing = sum(not is_ready(image) for image in images)
            fits = self._disk.fits(keep | images, missing * each_bytes)
            if not fits and (wave or keep):
                break
            wave, lacking_bytes = [*wave, block], missing * each_bytes
            if missing and not each_bytes:
                # The first block shows the size of this run's images. Until then, make room for
                # images of the largest size in the cache.
                return wave, missing * self._disk.largest()
        return wave, lacking_bytes

    def _within_budget(self, wave: list[Block], keep: set[str]) -> list[Block]:
        """Return the blocks that stay within the budget, now that the image sizes are known.

        A single block that is too large fails; it is tried once more at the end.
        """
        self._disk.refresh()
        budget_bytes = self._disk.budget.cache_bytes
        while budget_bytes is not None:
            needed = keep | self._of(wave)
            if self._disk.make_room(needed, 0):
                self._disk.refresh()  # bytes shared with evicted images now count
                continue
            used_bytes = self._disk.used_bytes(needed)
            if used_bytes <= budget_bytes or not wave:
                break
            if len(wave) == 1 and not keep:
                self._fail_too_large(wave[0], used_bytes, budget_bytes)
                return []
            wave = wave[:-1]
        return wave

    def _fail_too_large(self, block: Block, used_bytes: int, budget_bytes: int) -> None:
        """Record that this block is too large.

        Raises UserError after TOO_LARGE_MAX such blocks, if no block was within the budget.
        """
        why = (
            f"the images of one block take {used_bytes >> 20} MiB, but the disk budget is "
            f"{budget_bytes >> 20} MiB"
        )
        self._too_large.append(why)
        if len(self._too_large) >= TOO_LARGE_MAX and not self._one_fits:
            self._refuse()
        for image in self._of([block]):
            self._ledger.change(image, "failed", why)

    def _refuse(self) -> NoReturn:
        why = self._too_large[0]
        raise UserError(f"{why[0].upper()}{why[1:]}; raise --disk-budget or lower block_size.")

    def _supply(self, image: str, puller: Puller) -> None:
        """Pull and strip one image, or only strip it if the engine has it; record the result."""
        base = self._bases[image]
        with self._workers:
            if engine.has(image):
                self._ledger.write(_prepared(image, base))
                return
            self._ledger.write(Entry(image=image, state="pulling"))
            self._ledger.write(puller.pull(image, base))


def _prepared(image: str, base: str) -> Entry:
    """Strip an image that the engine has; return its entry for the ledger."""
    if image_cache.is_cached(image):
        image_cache.mark(image)
    try:
        name = history_stripped(image, base)
    except SandboxFailed as error:
        state: State = "absent" if isinstance(error, CannotStrip) else "failed"
        return Entry(image=image, state=state, why=str(error))
    return Entry(image=image, state="present", id=name)


def supply_for(
    spec: Spec, instances: Iterable[Instance], ledger: Path, say: Callable[[str], None]
) -> Supply:
    """Return the supply of a specification. Its time budget starts now.

    Logins come from the environment and from `docker login`.
    """
    reserve_bytes = int(1e9 * spec.disk_reserve_gb)
    budget_bytes = None if spec.disk_budget_gb is None else int(1e9 * spec.disk_budget_gb)
    until_s = time.monotonic() + (spec.time_budget_s or math.inf)
    mirror = Mirror(spec.mirror) if spec.mirror else None
    puller = Puller(mirror, login(), reserve_bytes, until_s=until_s, say=say)
    budget = Budget(reserve_bytes, budget_bytes)
    return Supply(instances, budget, puller, ledger, spec.pull_workers, spec.pull_beside)
