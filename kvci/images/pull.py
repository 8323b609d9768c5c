"""Pulls one image: retries, waits at a registry's limit, skips a mirror that fails."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from kvci.children import ENDING
from kvci.images import registry
from kvci.images.disk_watch import DiskWatch
from kvci.images.failures import (
    AccessDenied,
    EngineAway,
    ImageAbsent,
    NoSpace,
    OverBudget,
    PullFailed,
    RateLimited,
)
from kvci.images.gate import Gate, Mirror
from kvci.images.history import CannotStrip
from kvci.images.ledger import Entry, State
from kvci.images.logins import Login
from kvci.images.names import mirrored
from kvci.images.pull_attempt import Attempt, stop_reason
from kvci.sandbox import SandboxFailed

FIRST_WAIT_S, LONGEST_WAIT_S = 2.0, 300.0
MIRROR_PATIENCE_S, MIRROR_STALL_S = 60.0, 120.0
"""How long a mirror is retried, and how long it may be silent. Then kvci skips the mirror."""
DENIED_TRIES = 2


@dataclass
class Tries:
    """The tries to pull one image."""

    began: float = field(default_factory=time.monotonic)
    count: int = 0
    at_gate_s: float = 0.0

    def entry(self, image: str, state: State, why: str = "", id: str = "") -> Entry:
        seconds = round(time.monotonic() - self.began, 3)
        return Entry(image=image, state=state, why=why, attempts=self.count, seconds=seconds, id=id)


@dataclass(frozen=True)
class Puller:
    """Pulls images with these settings. Times are in seconds."""

    mirror: Mirror | None = None
    login: Login | None = None
    """The login at one registry. At other registries, kvci uses the logins of `docker login`."""
    reserve_bytes: int = 0
    """The space that must stay free on the engine's disk."""
    watch: DiskWatch | None = None
    """Keeps the disk budget; None without a budget."""
    patience_s: float = 900.0
    """How long the pull of one image is retried. At a registry's limit this time starts again when
    an image arrives, and the wait that the registry asks for is added. After the time is over once,
    kvci retries no pull from that registry until an image arrives."""
    stall_s: float = 300.0
    """A pull ends and is retried if the engine is silent for this long."""
    until_s: float = math.inf
    """When all pulls end, on the monotonic clock."""
    gate: Gate = field(default_factory=Gate)
    """The gate of the images' own registries."""
    say: Callable[[str], None] = print

    def pull(self, image: str, base: str) -> Entry:
        """Pull one image, strip its history after the base commit, and mark it as kvci's."""
        if self.mirror and self.mirror.is_down():
            return self._without_mirror.pull(image, base)
        gate, tries, why = self._gate, Tries(), ""
        while True:
            tries.at_gate_s += gate.wait(self.until_s)
            if stopped := self.stopped():
                return tries.entry(image, "failed", f"{stopped}; {why}" if why else stopped)
            tries.count += 1
            try:
                name = self._attempt(image, base).run()
            except ImageAbsent as error:
                if self.mirror:
                    return self._without_mirror.pull(image, base)
                return tries.entry(image, "absent", str(error))
            except OverBudget as error:
                return tries.entry(image, "needed", str(error))
            except (NoSpace, SandboxFailed) as error:
                never = isinstance(error, CannotStrip)
                return tries.entry(image, "absent" if never else "failed", str(error))
            except PullFailed as error:
                why = str(error)
                wait_s = self._wait_s(image, error, tries)
                if wait_s is None:
                    if not self.mirror or isinstance(error, EngineAway) or self.stopped():
                        return tries.entry(image, "failed", why)
                    if not isinstance(error, AccessDenied):
                        self._blame(self.mirror, image, why)
                    return self._without_mirror.pull(image, base)
                if not self.stopped():
                    self.say(f"{image}: {why}; retrying in {wait_s:.0f} s")
                if not isinstance(error, RateLimited):  # at a limit all pulls wait, at the gate
                    ENDING.wait(max(0.0, min(wait_s, self.until_s - time.monotonic())))
            else:
                gate.pulled = time.monotonic()
                if self.mirror:
                    self.mirror.failed.clear()
                return tries.entry(image, "pulled", id=name)

    def _wait_s(self, image: str, error: PullFailed, tries: Tries) -> float | None:
        """Return the wait before the next try; None: no more tries. Close the gate at a limit."""
        now, patience_s, gate = time.monotonic(), self.patience_s, self._gate
        if self.mirror and not isinstance(error, EngineAway):
            patience_s = min(patience_s, MIRROR_PATIENCE_S)
        if isinstance(error, AccessDenied) and (self.mirror or tries.count >= DENIED_TRIES):
            return None
        wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** (tries.count - 1))
        spent_s = now - tries.began - tries.at_gate_s
        if isinstance(error, RateLimited):
            answer = registry.ask(self._source(image), self.login)
            wait_s = max(wait_s, answer.wait_s or 0.0)
            window_s = answer.window_s if answer.remaining == 0 else None
            patience_s += max(answer.wait_s or 0.0, window_s or 0.0)
            gate.close(wait_s)
            spent_s = now - max(tries.began, gate.pulled)
        if spent_s + wait_s <= patience_s and gate.gave_up <= gate.pulled:
            return wait_s
        if not isinstance(error, EngineAway):
            gate.gave_up = now
        return None

    def _blame(self, mirror: Mirror, image: str, why: str) -> None:
        was_down = mirror.is_down()
        mirror.failed.add(image)
        if mirror.is_down() and not was_down:
            self.say(
                f"the mirror {mirror.address} failed ({why}); from now on images come from their "
                "own registries"
            )

    @property
    def _gate(self) -> Gate:
        return self.mirror.gate if self.mirror else self.gate

    @property
    def _without_mirror(self) -> "Puller":
        """The same puller, which asks only the registries in the images' names."""
        return replace(self, mirror=None)

    def _source(self, image: str) -> str:
        return mirrored(image, self.mirror.address if self.mirror else None)

    def stopped(self) -> str:
        """Return why pulls stop now; empty if they continue."""
        return stop_reason(self.until_s)

    def _attempt(self, image: str, base: str) -> Attempt:
        return Attempt(
            image=image,
            source=self._source(image),
            base=base,
            login=self.login,
            reserve_bytes=self.reserve_bytes,
            watch=self.watch,
            stall_s=min(self.stall_s, MIRROR_STALL_S) if self.mirror else self.stall_s,
            until_s=self.until_s,
        )
