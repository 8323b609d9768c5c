"""Tests which images belong to the cache, and when an image is evicted."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from kvci.docker import engine
from kvci.images import image_cache, in_flight
from kvci.images.commands import _built_names, _remove_built
from kvci.images.gate import Mirror
from kvci.images.image_build import BUILT
from kvci.images.names import parse_name
from kvci.images.pull import Puller
from kvci.images.pull_attempt import Attempt
from kvci.sandbox.container import Docker
from tests.images.other_process import locking
from tests.made_images import calibration_image


def cached_names() -> set[str]:
    return {name for one in image_cache.cached_images() for name in one.names}


def killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_image_locked_elsewhere_is_not_evicted(image: str) -> None:
    Puller().pull(image, "HEAD")
    (cached,) = [one for one in image_cache.cached_images() if image in one.names]
    with locking(image):
        assert not image_cache.is_unlocked(cached)
        assert not image_cache.evict(cached) and engine.has(image)
    assert image_cache.is_unlocked(cached)


@pytest.mark.long
def test_concurrent_requests_for_sizes_succeed(image: str) -> None:
    Puller().pull(image, "HEAD")
    box = Docker(image, {})  # an older engine measures the container too, which takes seconds
    try:
        with ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(cached_names) for _ in range(4)]
            found = [future.result() for future in futures]
    finally:
        box.close()
    assert all(image in names for names in found)


def test_images_of_others_are_never_evicted(image: str) -> None:
    Puller().pull(image, "HEAD")
    engine.client().images.get(image).tag("kvci-test", "other")
    try:
        assert image not in cached_names()
    finally:
        engine.client().images.remove("kvci-test:other")
    box = Docker(image, {})
    try:
        (cached,) = [one for one in image_cache.cached_images() if image in one.names]
        assert not image_cache.evict(cached)
        assert engine.has(image), "without its name it would stay forever"
    finally:
        box.close()


def test_prune_removes_only_unused_built_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier, prune also removed other programs' images, and images that a run needed."""
    images, name = engine.client().images, "kvci-test/built:latest"
    box = Docker(calibration_image(), {"a.py": ""})
    conf = {"Labels": {BUILT: name}}
    try:
        built = box._container.commit("kvci-test/built", "latest", conf=conf)
        made_from_it = box._container.commit("kvci-test/made-from-it", "latest", conf=conf)
    finally:
        box.close()
    built.tag("kvci-test/named", "latest")
    found = [images.get(one) for one in (built.id, made_from_it.id)]
    monkeypatch.setattr(type(images), "list", lambda *_, **__: found)
    try:
        with locking(name):
            assert not any(map(_remove_built, _built_names())) and engine.has(name)
        assert list(map(_remove_built, _built_names())) == [True] and not engine.has(name)
        assert engine.has("kvci-test/named") and engine.has("kvci-test/made-from-it")
    finally:
        for one in (built, made_from_it):
            images.remove(one.id, force=True)


@pytest.mark.parametrize("mirrored", [False, True])
def test_an_image_pulled_by_killed_kvci_is_cached(
    image: str, mirrored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kvci is killed after the image has arrived and before the image is marked."""
    name = image.replace("localhost", "127.0.0.1") if mirrored else image
    monkeypatch.setattr(Attempt, "_mark", killed)
    mirror = Mirror(parse_name(image)[0]) if mirrored else None
    with pytest.raises(KeyboardInterrupt):
        Puller(mirror).pull(name, "HEAD")
    assert engine.has(image) and not image_cache.is_cached(image)
    assert image not in cached_names(), "its process still lives"
    monkeypatch.setattr(in_flight, "ended", lambda process: True)
    assert image in cached_names() and not in_flight.take_abandoned()


def test_a_later_pull_by_others_is_not_cached(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_flight, "ended", lambda process: True)
    monkeypatch.setattr(Attempt, "_follow", killed)
    for other_engine in (False, True):
        with pytest.raises(KeyboardInterrupt):
            Puller().pull(image, "HEAD")
        engine.client().images.pull(*image.rsplit(":", 1))
        monkeypatch.setattr(in_flight, "GRACE", timedelta(minutes=1 if other_engine else -1))
        if other_engine:
            monkeypatch.setattr(engine, "identity", lambda: "another")
        assert image not in cached_names()
        engine.client().images.remove(image)
    monkeypatch.undo()
    assert not in_flight.take_abandoned()
