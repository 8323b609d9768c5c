"""One image pulled: what failed and why, and whether it is worth another try."""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import docker
from docker.errors import APIError, ImageNotFound
from docker.utils import kwargs_from_env, parse_repository_tag

from kvci.children import ENDING
from kvci.docker import engine
from kvci.files import Document
from kvci.images import image_cache, in_flight, registry
from kvci.images.history import Unfit, without_future
from kvci.images.registry import Login
from kvci.sandbox import SandboxFailed

State = Literal["needed", "pulling", "present", "pulled", "absent", "failed", "let go"]
FIRST_WAIT_S, LONGEST_WAIT_S = 2.0, 300.0
MIRROR_PATIENCE_S, MIRROR_STALL_S = 60.0, 120.0
"""Of a mirror, which must not cost more than it saves: then the image's own registry is asked."""
DENIED_TRIES = 2
LIMITED = ("toomanyrequests", "too many requests", "rate limit")
ABSENT = ("manifest unknown", "name unknown", "invalid reference format")
DENIED = ("access denied", "unauthorized", "authentication required")
"""It may be there for another login."""
NO_ROOM = ("no space left on device",)


class Entry(Document):
    """What is known of one image. The ledger is made of them."""

    image: str
    state: State
    why: str = ""
    attempts: int = 0
    seconds: float = 0.0
    id: str = ""


class Failed(Exception):
    """A pull that did not come to its end."""


class Gone(Failed):
    """Docker itself does not answer."""


class Denied(Failed):
    """There may be such an image for another login; Docker Hub says so of those it has not, too."""


class Limited(Failed):
    """The registry's limit of pulls is reached."""


class Absent(Failed):
    """The registry has no such image: asking again changes nothing."""


class NoRoom(Failed):
    """Going on would use the disk's reserve."""


class OverBudget(Failed):
    """Going on would use more than images may; this one comes later."""


@dataclass
class Gate:
    """Of a registry. Whoever meets its limit makes all wait."""

    opens: float = 0.0
    came: float = 0.0
    """When an image last came through; like all here on the monotonic clock."""
    gave_up: float = 0.0
    """When patience with it was last over. Until an image comes it has none more."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def close(self, seconds: float) -> None:
        with self.lock:
            self.opens = max(self.opens, time.monotonic() + seconds)

    def wait(self, until_s: float) -> float:
        """How long it was until it is open, or it is so late, or kvci ends."""
        began = time.monotonic()
        while (left := min(self.opens, until_s) - time.monotonic()) > 0:
            if ENDING.wait(min(left, 1.0)):
                break
        return time.monotonic() - began


@dataclass
class Mirror:
    """A registry that has the same repositories, asked before the images' own."""

    address: str
    gate: Gate = field(default_factory=Gate)
    failed: set[str] = field(default_factory=set)
    """The images that it could not give since one came."""

    def is_down(self) -> bool:
        """One image may be at fault itself."""
        return len(self.failed) >= 2


@dataclass
class Room:
    """What must stay free of the engine's disk while a wave is pulled, so that its budget holds."""

    floor_bytes: int
    first: Collection[str]
    """Images that come whatever they take."""
    _packed: dict[tuple[str, str], int] = field(default_factory=dict)
    """Image and layer -> bytes that go again when it is unpacked."""

    def hear(self, image: str, event: dict[str, Any]) -> None:
        layer, status = (image, str(event.get("id"))), event.get("status")
        if status == "Downloading":
            self._packed[layer] = int((event.get("progressDetail") or {}).get("current", 0))
        elif status == "Pull complete":
            self._packed.pop(layer, None)

    def forget(self, image: str) -> None:
        for layer in [one for one in list(self._packed) if one[0] == image]:
            self._packed.pop(layer, None)

    def is_used_up(self, image: str, free_bytes: int) -> bool:
        packed = sum(list(self._packed.values()))
        return image not in self.first and free_bytes + packed < self.floor_bytes


class _Impatient(docker.APIClient):  # type: ignore[misc]
    """docker-py would wait without end for what a pull says next."""

    def post(self, *args: Any, **kwargs: Any) -> Any:
        return super().post(*args, **kwargs | {"timeout": self.timeout})


@dataclass
class Tries:
    """At one image."""

    began: float = field(default_factory=time.monotonic)
    count: int = 0
    at_gate_s: float = 0.0

    def entry(self, image: str, state: State, why: str = "", id: str = "") -> Entry:
        seconds = round(time.monotonic() - self.began, 3)
        return Entry(image=image, state=state, why=why, attempts=self.count, seconds=seconds, id=id)


@dataclass(frozen=True)
class Puller:
    """How images are pulled. Times in seconds."""

    mirror: Mirror | None = None
    login: Login | None = None
    """Of one registry; of all others what `docker login` left is taken."""
    reserve_bytes: int = 0
    """Of the engine's disk, never used."""
    room: Room | None = None
    """Of a disk budget."""
    patience_s: float = 900.0
    """For one image, or at a registry's limit without any having come; what the registry announces
    is waited for besides. It is had once, until another image comes."""
    stall_s: float = 300.0
    """Without a sign of life a pull is given up and tried again."""
    until_s: float = math.inf
    """On the monotonic clock; then every pull is given up."""
    gate: Gate = field(default_factory=Gate)
    """Of the images' own registries."""
    say: Callable[[str], None] = print

    def pull(self, image: str, base: str) -> Entry:
        """Get one image, stripped of what came after its base commit, and mark it as ours."""
        if self.mirror and self.mirror.is_down():
            return self._past_the_mirror.pull(image, base)
        gate, tries, why = self._gate, Tries(), ""
        while True:
            tries.at_gate_s += gate.wait(self.until_s)
            if stopped := self.stopped():
                return tries.entry(image, "failed", f"{stopped}; {why}" if why else stopped)
            tries.count += 1
            try:
                name = self._pull(image, base)
            except Absent as error:
                if self.mirror:
                    return self._past_the_mirror.pull(image, base)
                return tries.entry(image, "absent", str(error))
            except OverBudget as error:
                return tries.entry(image, "needed", str(error))
            except (NoRoom, SandboxFailed) as error:
                never = isinstance(error, Unfit)
                return tries.entry(image, "absent" if never else "failed", str(error))
            except Failed as error:
                why = str(error)
                wait_s = self._wait_s(image, error, tries)
                if wait_s is None:
                    if not self.mirror or isinstance(error, Gone) or self.stopped():
                        return tries.entry(image, "failed", why)
                    if not isinstance(error, Denied):
                        self._blame(self.mirror, image, why)
                    return self._past_the_mirror.pull(image, base)
                if not self.stopped():
                    self.say(f"{image}: {why}; the next try in {wait_s:.0f} s")
                if not isinstance(error, Limited):  # then all wait, at the gate
                    ENDING.wait(max(0.0, min(wait_s, self.until_s - time.monotonic())))
            else:
                gate.came = time.monotonic()
                if self.mirror:
                    self.mirror.failed.clear()
                return tries.entry(image, "pulled", id=name)

    def _wait_s(self, image: str, error: Failed, tries: Tries) -> float | None:
        """Until the next try; None if patience is over. A limit closes the gate."""
        now, patience_s, gate = time.monotonic(), self.patience_s, self._gate
        if self.mirror and not isinstance(error, Gone):
            patience_s = min(patience_s, MIRROR_PATIENCE_S)
        if isinstance(error, Denied) and (self.mirror or tries.count >= DENIED_TRIES):
            return None
        wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** (tries.count - 1))
        spent_s = now - tries.began - tries.at_gate_s
        if isinstance(error, Limited):
            said = registry.ask(self._source(image), self.login)
            wait_s = max(wait_s, said.wait_s or 0.0)
            window_s = said.window_s if said.remaining == 0 else None
            patience_s += max(said.wait_s or 0.0, window_s or 0.0)
            gate.close(wait_s)
            spent_s = now - max(tries.began, gate.came)
        if spent_s + wait_s <= patience_s and gate.gave_up <= gate.came:
            return wait_s
        if not isinstance(error, Gone):
            gate.gave_up = now
        return None

    def _blame(self, mirror: Mirror, image: str, why: str) -> None:
        was_down = mirror.is_down()
        mirror.failed.add(image)
        if mirror.is_down() and not was_down:
            self.say(f"{mirror.address} is given up ({why}); images come from their own registries")

    @property
    def _gate(self) -> Gate:
        return self.mirror.gate if self.mirror else self.gate

    @property
    def _past_the_mirror(self) -> "Puller":
        """Asks the registries that images name."""
        return replace(self, mirror=None)

    def _source(self, image: str) -> str:
        return registry.mirrored(image, self.mirror.address if self.mirror else None)

    def stopped(self) -> str:
        """Why no pull goes on; empty if they do."""
        if ENDING.is_set():
            return "stopped"
        return "the time budget is over" if time.monotonic() >= self.until_s else ""

    def _pull(self, image: str, base: str) -> str:
        """The id of the image. Raises Failed, SandboxFailed."""
        source = self._source(image)
        try:
            # An earlier try's last word brought it, or somebody else did.
            if engine.has(image) and not in_flight.is_there(source):
                return self._strip(image, base)
            ours = in_flight.claim(source)
            try:
                self._listen(source, image)
            except (Failed, APIError):
                if ours and engine.has(source):  # with its last word it came
                    self._take(source, image, ours)
                in_flight.drop(source)
                raise
            self._take(source, image, ours)
            in_flight.drop(source)
            return self._strip(image, base)
        except (APIError, ImageNotFound) as error:
            raise _failure(str(error.explanation or error)) from None
        except engine.ENGINE_ERRORS as error:
            kind = Failed if engine.answers() else Gone  # it waits for the registry, without a word
            raise kind(f"Docker: {str(error)[:300]}") from None

    def _listen(self, source: str, image: str) -> None:
        """Return when it is here. Raises Failed, and what the engine does."""
        try:
            for event in self._events(source):
                in_flight.touch(source)
                self._heed(image, event)
        finally:
            if self.room:
                self.room.forget(image)

    def _heed(self, image: str, event: dict[str, Any]) -> None:
        """What the engine says, and how its disk is."""
        if stopped := self.stopped():
            raise Failed(stopped)
        if "error" in event:
            raise _failure(str(event["error"]))
        free = engine.free_bytes()
        if free is not None and free < self.reserve_bytes:
            raise NoRoom(
                f"{free >> 20} MiB are free on Docker's disk, and "
                f"{self.reserve_bytes >> 20} MiB are its reserve"
            )
        if self.room and free is not None:
            self.room.hear(image, event)
            if self.room.is_used_up(image, free):
                raise OverBudget("the disk budget was used up; it comes in a later wave")

    def _take(self, source: str, image: str, ours: bool) -> None:
        """What came under the source's name is ours, under the image's."""
        if source != image:
            images = engine.client().images
            images.get(source).tag(*_repository_and_tag(image))
        image_cache.mark(image)
        if source != image and ours:  # else somebody gave it that name
            images.remove(source)

    def _events(self, source: str) -> Iterator[dict[str, Any]]:
        """What the engine says while it pulls; leaving the loop ends the pull."""
        name, tag = _repository_and_tag(source)
        left_s = max(0.1, self.until_s - time.monotonic())
        stall_s = min(self.stall_s, MIRROR_STALL_S) if self.mirror else self.stall_s
        version = engine.client().api.api_version
        api = _Impatient(version=version, timeout=min(stall_s, left_s), **kwargs_from_env())
        known = registry.known_to(registry.parts(source)[0], self.login)
        login = {"username": known.user, "password": known.password} if known else None
        try:
            with contextlib.closing(
                api.pull(name, tag, stream=True, decode=True, auth_config=login)
            ) as events:
                yield from events
        finally:
            api.close()

    def _strip(self, image: str, base: str) -> str:
        """The image without its future takes the name, so that the other's bytes can go; if it is
        ours."""
        images = engine.client().images
        pulled = images.get(image)
        stripped = images.get(without_future(image, base))
        if stripped.id != pulled.id and image_cache.is_ours(image):
            stripped.tag(*_repository_and_tag(image))
            image_cache.mark(image)
            pulled.reload()
            # By its digest alone it would stay when the other goes, and its bytes count as shared.
            for name in pulled.attrs["RepoDigests"] if not pulled.tags else ():
                images.remove(name)
        return str(stripped.id)


def _repository_and_tag(image: str) -> tuple[str, str]:
    name, tag = parse_repository_tag(image)
    return name, tag or "latest"


def _failure(said: str) -> Failed:
    """What kind of failure the engine's words mean."""
    text, low = " ".join(said.split())[:300], said.lower()
    if any(words in low for words in LIMITED):
        return Limited(text)
    if any(words in low for words in NO_ROOM):
        return NoRoom(text)
    if any(words in low for words in DENIED):
        return Denied(f"{text}; log in (docker login), if there is such an image")
    if any(words in low for words in ABSENT):
        return Absent(text)
    return Failed(text)
