"""One try to pull one image: ask the engine, follow its events, mark the image and strip it."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import docker
from docker.errors import APIError, ImageNotFound
from docker.utils import kwargs_from_env

from kvci.children import ENDING
from kvci.docker import engine
from kvci.images import image_cache, in_flight
from kvci.images.disk_watch import DiskWatch
from kvci.images.failures import EngineAway, NoSpace, OverBudget, PullFailed, failure
from kvci.images.history import history_stripped
from kvci.images.logins import Login, login_for
from kvci.images.names import parse_name, repository_and_tag


def stop_reason(until_s: float) -> str:
    """Return why pulls stop now; empty if not. `until_s` is a time of the monotonic clock."""
    if ENDING.is_set():
        return "stopped"
    return "the time budget is over" if time.monotonic() >= until_s else ""


class _WithTimeout(docker.APIClient):  # type: ignore[misc]
    """A client that ends a silent pull. docker-py alone would wait forever."""

    def post(self, *args: Any, **kwargs: Any) -> Any:
        return super().post(*args, **kwargs | {"timeout": self.timeout})


@dataclass(frozen=True)
class Attempt:
    """One try to pull `image` under the name `source`. At a mirror the two names differ."""

    image: str
    source: str
    base: str
    """The base commit, with which the image's history must end."""
    login: Login | None
    reserve_bytes: int
    watch: DiskWatch | None
    stall_s: float
    """The longest silence of the engine."""
    until_s: float
    """When the pull ends, on the monotonic clock."""

    def run(self) -> str:
        """Pull and strip the image; return the id of the history-stripped image.

        Raises PullFailed if the pull fails, and SandboxFailed if the image cannot be stripped.
        """
        try:
            # The engine may have finished an earlier try, or another program pulled the image.
            if engine.has(self.image) and not in_flight.exists(self.source):
                return self._strip()
            own_pull = in_flight.begin(self.source)
            try:
                self._follow()
            except (PullFailed, APIError):
                if own_pull and engine.has(self.source):  # the last event completed it
                    self._mark(own_pull)
                in_flight.end(self.source)
                raise
            self._mark(own_pull)
            in_flight.end(self.source)
            return self._strip()
        except (APIError, ImageNotFound) as error:
            raise failure(str(error.explanation or error)) from None
        except engine.ENGINE_ERRORS as error:
            # If the engine answers now, it was waiting for the registry without sending events.
            kind = PullFailed if engine.answers() else EngineAway
            raise kind(f"Docker: {str(error)[:300]}") from None

    def _follow(self) -> None:
        """Wait until the image has arrived.

        Raises PullFailed, or an error of the engine, if the image does not arrive.
        """
        try:
            for event in self._events():
                in_flight.touch(self.source)
                self._check(event)
        finally:
            if self.watch:
                self.watch.forget(self.image)

    def _check(self, event: dict[str, Any]) -> None:
        """Raise PullFailed if the event, the disk or the time budget ends this pull."""
        if stopped := stop_reason(self.until_s):
            raise PullFailed(stopped)
        if "error" in event:
            raise failure(str(event["error"]))
        free = engine.free_bytes()
        if free is not None and free < self.reserve_bytes:
            raise NoSpace(
                f"Docker's disk has {free >> 20} MiB free, and its reserve is "
                f"{self.reserve_bytes >> 20} MiB; free some space there"
            )
        if self.watch and free is not None:
            self.watch.record(self.image, event)
            if self.watch.is_used_up(self.image, free):
                raise OverBudget("the disk budget is used up; a later wave pulls this image")

    def _mark(self, own_pull: bool) -> None:
        """Give the image its own name and mark it as kvci's.

        If kvci's pull made the source's name, remove that name. A name of another program stays.
        """
        if self.source != self.image:
            images = engine.client().images
            images.get(self.source).tag(*repository_and_tag(self.image))
        image_cache.mark(self.image)
        if self.source != self.image and own_pull:
            images.remove(self.source)

    def _events(self) -> Iterator[dict[str, Any]]:
        """Yield the engine's events during the pull. Closing the iterator ends the pull."""
        name, tag = repository_and_tag(self.source)
        left_s = max(0.1, self.until_s - time.monotonic())
        version = engine.client().api.api_version
        api = _WithTimeout(version=version, timeout=min(self.stall_s, left_s), **kwargs_from_env())
        known = login_for(parse_name(self.source)[0], self.login)
        login = {"username": known.user, "password": known.password} if known else None
        try:
            with contextlib.closing(
                api.pull(name, tag, stream=True, decode=True, auth_config=login)
            ) as events:
                yield from events
        finally:
            api.close()

    def _strip(self) -> str:
        """Strip the image; return the id of the history-stripped image.

        If kvci pulled the image, its name moves to the stripped image, so that the engine can free
        the bytes of the original image.
        """
        images = engine.client().images
        pulled = images.get(self.image)
        stripped = images.get(history_stripped(self.image, self.base))
        if stripped.id != pulled.id and image_cache.is_cached(self.image):
            stripped.tag(*repository_and_tag(self.image))
            image_cache.mark(self.image)
            pulled.reload()
            # The digest would keep the original image, and its bytes would count as shared.
            for name in pulled.attrs["RepoDigests"] if not pulled.tags else ():
                images.remove(name)
        return str(stripped.id)
