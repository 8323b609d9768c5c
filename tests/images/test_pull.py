"""Tests pulls from a real registry behind a proxy that imitates failures."""

import contextlib
import time
from collections.abc import Iterator

import pytest
import requests

from kvci.docker import engine
from kvci.errors import UserError
from kvci.images import image_cache, pull
from kvci.images.failures import NoSpace
from kvci.images.gate import Mirror
from kvci.images.history import stripped_name
from kvci.images.ledger import Entry
from kvci.images.pull import Puller
from kvci.images.pull_attempt import Attempt
from kvci.threads import background
from tests.answers import answer
from tests.images.registry import CLEAN, LAYER_BYTES, TO_STRIP, Handler, Registry, evict, fail
from tests.made_images import calibration_image


def drip(handler: Handler) -> bool:
    """A fault: send a blob at one byte a second."""
    if "/blobs/" not in handler.path:
        return False
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(30):
            handler.wfile.write(b"x")
            time.sleep(1)
    handler.close_connection = True
    return True


def image_ids() -> set[str]:
    return {one["Id"] for one in engine.client().api.images(all=True)}


def test_a_pulled_image_is_marked_and_evicted_completely(image: str) -> None:
    """The cached size is that of the pulled and the stripped image together."""
    image = image.replace(CLEAN, TO_STRIP)
    before, messages = image_ids(), list[str]()
    entry = Puller(say=messages.append).pull(image, "HEAD")
    assert (entry.state, entry.attempts, messages) == ("pulled", 1, [])
    assert image_cache.is_cached(image) and engine.has(stripped_name(image, "HEAD"))
    (cached,) = [one for one in image_cache.cached_images() if image in one.names]
    assert cached.id == entry.id and LAYER_BYTES < cached.unshared_bytes < 2 * LAYER_BYTES
    assert len(image_ids() - before) == 2
    assert Entry.model_validate_json(entry.model_dump_json()) == entry
    assert image_cache.evict(cached) and image_ids() == before


@pytest.mark.parametrize(("status", "wait"), [(429, "4"), (429, ""), (500, "")])
def test_a_passing_failure_is_retried(
    registry: Registry, image: str, status: int, wait: str
) -> None:
    registry.fault = fail(1.5, status, wait)
    messages: list[str] = []
    began = time.monotonic()
    entry = Puller(say=messages.append).pull(image, "HEAD")
    assert (entry.state, entry.attempts) == ("pulled", 2)
    assert time.monotonic() - began > (4 if wait else 2)
    assert f"retrying in {wait or 2} s" in messages[0]


def test_cut_connections_and_silence_are_retried(registry: Registry, image: str) -> None:
    seen: list[str] = []

    def fault(handler: Handler) -> bool:
        if "/blobs/" not in handler.path or len(seen) >= 2:
            return False
        seen.append(handler.path)
        if len(seen) == 2:
            time.sleep(90)  # the engine may keep this connection after kvci gave up
        handler.close_connection = True
        handler.connection.close()
        return True

    registry.fault = fault
    entry = Puller(say=lambda _: None, stall_s=8).pull(image, "HEAD")
    assert entry.state == "pulled" and len(seen) == 2 and entry.attempts > 1


def test_a_lasting_failure_is_reported(registry: Registry, image: str) -> None:
    absent = Puller(patience_s=1).pull(f"{registry.address}/kvci-test/none-429:latest", "HEAD")
    assert absent.state == "absent" and "unknown" in absent.why
    assert Puller(patience_s=1).pull(f"{registry.address}/Not/A-Name:x", "HEAD").state == "absent"
    registry.fault = fail(60, 503)
    failed = Puller(patience_s=1, say=lambda _: None).pull(image, "HEAD")
    assert failed.state == "failed" and failed.attempts == 1
    registry.fault = fail(60, 429)
    limited = Puller(patience_s=1, say=lambda _: None).pull(image, "HEAD")
    assert limited.state == "failed" and "slow down" in limited.why


def test_one_rate_limit_makes_all_pulls_wait(registry: Registry, image: str) -> None:
    registry.fault = fail(1, 429, "4")
    messages: list[str] = []
    puller = Puller(say=messages.append)
    limited = background(puller.pull, image, "HEAD")
    while not messages:
        time.sleep(0.05)
    before = list(registry.requests)
    other = background(puller.pull, f"{registry.address}/kvci-test/none:latest", "HEAD")
    time.sleep(2.5)
    assert registry.requests == before
    assert (limited.result().state, other.result().state) == ("pulled", "absent")


def test_an_unwritable_cache_is_one_clear_error(
    image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier, kvci treated this error as a failure of Docker and retried for 15 minutes."""
    monkeypatch.setenv("KVCI_CACHE", "/proc/kvci")
    with pytest.raises(UserError, match=r"/proc/kvci/pulling cannot be written .*KVCI_CACHE"):
        Puller().pull(image, "HEAD")


def test_waiting_at_the_gate_costs_no_patience(registry: Registry, image: str) -> None:
    puller = Puller(patience_s=3, say=lambda _: None)
    registry.fault = fail(5, 500)
    puller.gate.close(4)
    assert puller.pull(image, "HEAD").state == "pulled"


def test_used_up_patience_returns_with_an_image(registry: Registry, image: str) -> None:
    """Earlier, kvci waited the whole time again for each image: a day for SWE-bench Lite."""
    puller = Puller(patience_s=3.0, say=lambda _: None)
    registry.fault = fail(60.0, 500)
    entries = [puller.pull(image, "HEAD") for _ in range(3)]
    assert [(one.state, one.attempts) for one in entries] == [
        ("failed", 2),
        ("failed", 1),
        ("failed", 1),
    ]
    registry.fault = None
    assert puller.pull(image, "HEAD").state == "pulled"
    evict(image)
    registry.fault = fail(1.0, 500)
    assert puller.pull(image, "HEAD").attempts == 2


def test_a_limit_is_endured_while_images_come(registry: Registry, image: str) -> None:
    puller = Puller(patience_s=5.5, say=lambda _: None)
    registry.fault = fail(5, 429)
    waits = background(puller.pull, image, "HEAD")
    for _ in range(4):
        time.sleep(1)
        puller.gate.pulled = time.monotonic()  # as the pull of another image does
    assert waits.result().state == "pulled"


def test_a_limit_is_waited_out_for_its_window(registry: Registry, image: str) -> None:
    until = time.monotonic() + 3

    def fault(handler: Handler) -> bool:
        if time.monotonic() < until:
            handler.refuse(429, {"ratelimit-remaining": "0;w=6"})
        return time.monotonic() < until

    registry.fault = fault
    assert Puller(patience_s=1, say=lambda _: None).pull(image, "HEAD").state == "pulled"


def test_a_limit_without_a_wait_ends_too(registry: Registry, image: str) -> None:
    registry.fault = fail(60, 429, "0")
    entry = Puller(patience_s=3, say=lambda _: None).pull(image, "HEAD")
    assert entry.state == "failed" and entry.attempts <= 3 and entry.seconds < 30


def test_the_registry_delivers_what_the_mirror_lacks(registry: Registry, image: str) -> None:
    seen: list[str] = []

    def fault(handler: Handler) -> bool:
        if "/manifests/" not in handler.path or len(seen) >= 2:
            return False
        seen.append(handler.path)
        body = b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}'
        answer(handler, 404, body)
        return True

    registry.fault = fault
    entry = Puller(mirror=Mirror(registry.address), say=lambda _: None).pull(image, "HEAD")
    assert entry.state == "pulled" and seen


def test_a_mirror_that_is_down_is_passed(
    registry: Registry, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "MIRROR_PATIENCE_S", 1.0)
    messages: list[str] = []
    puller = Puller(mirror=Mirror("localhost:1"), say=messages.append)
    direct = image.replace(registry.address, registry.real)
    for name in (image, direct, image):
        assert puller.pull(name, "HEAD").state == "pulled"
    evict(direct)
    assert len(messages) == 1 and "localhost:1 failed" in messages[0]


@pytest.mark.long
def test_a_mirror_that_hangs_is_passed(
    registry: Registry, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier, kvci concluded from the mirror's silence that Docker does not answer."""
    monkeypatch.setattr(pull, "MIRROR_PATIENCE_S", 1.0)
    monkeypatch.setattr(pull, "MIRROR_STALL_S", 5.0)
    until = time.monotonic() + 30

    def hangs(handler: Handler) -> bool:
        if "/blobs/" in handler.path:
            time.sleep(max(0.0, until - time.monotonic()))
        return False

    registry.fault = hangs
    mirror = Mirror(registry.address)
    direct = image.replace(registry.address, registry.real)
    entry = Puller(mirror=mirror, say=lambda _: None).pull(direct, "HEAD")
    evict(direct)
    assert entry.state == "pulled" and mirror.failed == {direct}
    assert entry.seconds < 30, "its own registry was asked"


def test_a_denied_image_is_tried_twice(registry: Registry, image: str) -> None:
    def denies(handler: Handler) -> bool:
        body = b'{"errors": [{"code": "DENIED", "message": "requested access is denied"}]}'
        answer(handler, 403, body)
        return True

    registry.fault = denies
    entry = Puller(say=lambda _: None).pull(image, "HEAD")
    assert (entry.state, entry.attempts) == ("failed", pull.DENIED_TRIES)
    assert "docker login" in entry.why, entry.why


def test_an_image_that_arrives_late_is_marked(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier, the image was not marked if the time budget ended with its last event."""
    follow = Attempt._follow

    def late(self: Attempt) -> None:
        follow(self)
        raise NoSpace("the disk is full now")

    monkeypatch.setattr(Attempt, "_follow", late)
    assert Puller().pull(image, "HEAD").state == "failed"
    assert image_cache.is_cached(image)


def test_an_image_pulled_by_others_meanwhile_stays(registry: Registry, image: str) -> None:
    """Earlier, the stripped image took its name, its digest was removed, and kvci evicted it."""
    image = image.replace(CLEAN, TO_STRIP)
    pulled: list[tuple[str, list[str]]] = []

    def meanwhile(_: str) -> None:
        registry.fault = None
        found = engine.client().images.pull(*image.rsplit(":", 1))
        pulled.append((found.id, found.attrs["RepoDigests"]))

    registry.fault = fail(60, 429, "1")
    try:
        assert Puller(say=meanwhile).pull(image, "HEAD").state == "pulled"
        found = engine.client().images.get(image)
        assert [(found.id, found.attrs["RepoDigests"])] == pulled
        assert not image_cache.is_cached(image) and engine.has(stripped_name(image, "HEAD"))
        assert not any(image in cached.names for cached in image_cache.cached_images())
    finally:
        stripped = engine.client().images.get(stripped_name(image, "HEAD")).id
        engine.client().images.remove(image)
        engine.client().images.remove(stripped, force=True)  # it has two names


def test_the_mirror_is_not_blamed_for_others(
    registry: Registry, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "MIRROR_PATIENCE_S", 1.0)
    registry.fault = fail(60, 500)
    mirror = Mirror(registry.address)
    puller = Puller(mirror=mirror, patience_s=1, say=lambda _: None)
    direct = image.replace(registry.address, registry.real)
    for _ in range(2):
        registry.requests.clear()
        assert puller.pull(direct, "HEAD").state == "pulled" and registry.requests
        evict(direct)

    def refused(*_: object) -> Iterator[dict[str, object]]:
        raise requests.ConnectionError("refused")

    monkeypatch.setattr(Attempt, "_events", refused)
    monkeypatch.setattr(engine, "answers", lambda: False)
    entry = puller.pull(image, "HEAD")
    assert entry.state == "failed" and entry.why.startswith("Docker:")
    assert mirror.failed == {direct} and not mirror.is_down()


def test_no_pull_outlasts_the_time_budget(registry: Registry, image: str) -> None:
    for fault, why in ((fail(60, 503), "503"), (fail(60, 429, "50"), "slow down"), (drip, "")):
        registry.fault = fault
        began = time.monotonic()
        entry = Puller(say=lambda _: None, until_s=began + 3).pull(image, "HEAD")
        assert time.monotonic() - began < 8
        assert entry.state == "failed" and entry.why.startswith("the time budget is over")
        assert why in entry.why
    registry.requests.clear()
    late = Puller(until_s=time.monotonic()).pull(image, "HEAD")
    assert late.attempts == 0 and not registry.requests


def test_the_reserve_is_never_used(image: str) -> None:
    entry = Puller(reserve_bytes=1 << 60).pull(image, "HEAD")
    assert entry.state == "failed" and "reserve" in entry.why and not engine.has(image)


def test_the_mirror_replaces_the_registry(registry: Registry) -> None:
    registry.fault = None
    name = f"registry.invalid/{CLEAN}:latest"
    at_mirror = f"{registry.address}/{CLEAN}:latest"
    try:
        entry = Puller(mirror=Mirror(registry.address)).pull(name, "HEAD")
        assert entry.state == "pulled" and image_cache.is_cached(name) and not engine.has(at_mirror)
        engine.client().images.get(calibration_image()).tag(at_mirror)
        Puller(mirror=Mirror(registry.address)).pull(name, "HEAD")
        assert engine.has(at_mirror), "another image had that name before"
    finally:
        engine.client().images.remove(at_mirror)
        evict(name)
