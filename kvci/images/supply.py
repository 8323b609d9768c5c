"""Pulls images before blocks need them, a wave of blocks at a time, within the disk budget.

A wave has as many blocks as the disk can hold images for. The images of a wave stay until a later
wave needs their room.
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
"""After so many blocks above the budget and none within it, the run stops."""


@dataclass(frozen=True)
class Gathered:
    """The blocks whose images were pulled, and those of them that have all their images."""

    tried: list[Block] = field(default_factory=list)
    ready: list[Block] = field(default_factory=list)


class Supply:
    """Pulls the images of a run's instances, a wave of blocks at a time."""

    def __init__(
        self,
        instances: Iterable[Instance],
        budget: Budget,
        puller: Puller,
        ledger: Path,
        workers: int = 4,
        prefetch: bool = False,
    ) -> None:
        """With `prefetch` the next wave is pulled while one runs; each has half the budget."""
        rows = [instance.row for instance in instances]
        self._images = {row.instance_id: engine_name(row.image) for row in rows}
        self._bases = {engine_name(row.image): row.base_commit for row in rows}
        self._puller, self._prefetch = puller, prefetch
        self._workers = threading.Semaphore(workers)
        self._ledger = LedgerFile(ledger)
        self._disk = Disk(budget, self._bases, self._ledger, share=2 if prefetch else 1)
        self._one_fits = False
        """A block had all its images, within the budget."""
        self._too_large: list[str] = []
        """One reason for each block whose images take more than the budget."""

    def waves(self, blocks: Iterable[Block]) -> Iterator[list[Block]]:
        """The blocks in their order, a wave at a time, once their images are pulled.

        Until the next wave no other kvci process evicts these images. Blocks whose images cannot
        be pulled now are tried once more at the end. No wave starts after the time budget. Raises
        UserError if the images of each block take more than the disk budget.
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
        """Why this instance's image can never be pulled; empty if it can."""
        entry = self._ledger.entry(self._images.get(instance, ""))
        return entry.why if entry and entry.state == "absent" else ""

    def missing(self) -> list[str]:
        """A line for each image that is not available."""
        return [
            f"image {entry.image} is not available: {entry.why}"
            for entry in self._ledger.entries()
            if entry.state in ("absent", "failed")
        ]

    def stopped(self) -> str:
        """Why pulls stop now; empty if they continue."""
        return self._puller.stopped()

    def lacks(self, block: Block) -> bool:
        """True if a pull of one of its images failed."""
        return "failed" in self._states(block)

    def _states(self, block: Block) -> set[State]:
        return self._ledger.states(self._of([block]))

    def _of(self, blocks: Iterable[Block]) -> set[str]:
        """The images of these blocks."""
        return set(self._in_order(blocks))

    def _in_order(self, blocks: Iterable[Block]) -> list[str]:
        names = (name for block in blocks for name in block.instances)
        return list(dict.fromkeys(self._images[name] for name in names if name in self._images))

    def _gather(self, todo: list[Block], keep: set[str]) -> Gathered:
        """Pull the images of as many of these blocks as fit together with the images `keep`.

        Waits for an engine that stops answering. Raises UserError.
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
        raise UserError(f"Docker failed {TRIES} times in a row: {why}")

    def _gather_once(self, todo: list[Block], keep: set[str]) -> Gathered:
        disk = self._disk
        disk.forget_names()
        disk.lock(keep)
        disk.load()
        wave, lacking_bytes = self._choose(todo, keep)
        disk.lock(keep | self._of(wave))
        disk.make_room(keep | self._of(wave), lacking_bytes)
        # The first block is exempt: it is pulled in any case, if only to be found too large.
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
        """Wait for a disk that other programs fill, so that the last try does not fail for it."""

        def lacks_space() -> str:
            return "" if self.stopped() else self._disk.lacks_space()

        if why := lacks_space():
            self._puller.say(f"waiting for disk space: {why}")
        with contextlib.suppress(UserError):
            patience.wait(lacks_space, self._puller.patience_s)

    def _choose(self, todo: list[Block], keep: set[str]) -> tuple[list[Block], int]:
        """The next wave, and the bytes that its missing images are expected to take."""
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
                # The first block shows what this run's images take. Until then, make room as for
                # the largest image of another run.
                return wave, missing * self._disk.largest()
        return wave, lacking_bytes

    def _within_budget(self, wave: list[Block], keep: set[str]) -> list[Block]:
        """The blocks that stay within the budget, now that the sizes of their images are known.

        A single block that is too large fails; it is tried once more at the end.
        """
        self._disk.refresh()
        budget_bytes = self._disk.budget.cache_bytes
        while budget_bytes is not None:
            needed = keep | self._of(wave)
            if self._disk.make_room(needed, 0):
                self._disk.refresh()  # bytes that evicted images shared now count for the others
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
        """Raises UserError if it is one of many, and none has fitted yet."""
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
        """Pull one image, or strip the one that the engine has; the ledger gets the result."""
        base = self._bases[image]
        with self._workers:
            if engine.has(image):
                self._ledger.write(_prepared(image, base))
                return
            self._ledger.write(Entry(image=image, state="pulling"))
            self._ledger.write(puller.pull(image, base))


def _prepared(image: str, base: str) -> Entry:
    """The entry of an image that the engine has, once it is stripped."""
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
    """The supply that a specification asks for. Its time budget starts now.

    A login comes from the environment, or is what `docker login` stored.
    """
    reserve_bytes = int(1e9 * spec.disk_reserve_gb)
    budget_bytes = None if spec.disk_budget_gb is None else int(1e9 * spec.disk_budget_gb)
    until_s = time.monotonic() + (spec.time_budget_s or math.inf)
    mirror = Mirror(spec.mirror) if spec.mirror else None
    puller = Puller(mirror, login(), reserve_bytes, until_s=until_s, say=say)
    budget = Budget(reserve_bytes, budget_bytes)
    return Supply(instances, budget, puller, ledger, spec.pull_workers, spec.pull_beside)
