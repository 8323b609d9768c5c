"""Fixtures of the images' tests. The tests evict no images of real runs on this machine."""

from collections.abc import Iterator

import pytest

from kvci.docker import engine
from kvci.docker.engine import OWNER
from kvci.errors import UserError
from kvci.images import image_cache
from kvci.sandbox import Limits
from kvci.sandbox.container import Docker
from tests.images.other_process import locking
from tests.images.registry import (
    CLEAN,
    LAYER_BYTES,
    NO_LATER_HISTORY,
    TO_STRIP,
    Registry,
    evict,
    serving,
)
from tests.made_images import calibration_image


@pytest.fixture(scope="session", autouse=True)
def real_images_locked() -> Iterator[None]:
    """Lock the images of real runs in another process. Its locks also stop this process."""
    try:
        engine.check()
    except UserError:
        yield
        return
    cached = [
        one.names
        for one in image_cache.cached_images()
        if not any("kvci-test/" in name for name in one.names)
    ]
    with locking(*(name for names in cached for name in names)):
        yield


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    """Yield a registry with the images CLEAN and TO_STRIP."""
    base = calibration_image()
    fill = f"head -c {LAYER_BYTES} /dev/urandom > /layer"
    with serving() as one:
        for repository, change in ((TO_STRIP, fill), (CLEAN, f"{fill}; {NO_LATER_HISTORY}")):
            box = Docker(base, {"a.py": "x = 1\n"})
            assert box.script(change, Limits()).code == 0
            made = box._container.commit("kvci-test", "push", conf={"Labels": {OWNER: ""}})
            box.close()
            one.push("kvci-test:push", repository)
            engine.client().images.remove(made.id, force=True)
        yield one


@pytest.fixture
def image(registry: Registry) -> Iterator[str]:
    """Yield the name of CLEAN. The engine does not have it before and after the test."""
    registry.fault = None
    registry.requests.clear()
    name = f"{registry.address}/{CLEAN}:latest"
    yield name
    evict(name)
    assert not engine.has(name)
