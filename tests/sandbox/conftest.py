"""Both real sandboxes, over the same small work tree."""

from collections.abc import Iterator

import pytest

from kvci.sandbox import Caps, Sandbox, bwrap
from kvci.sandbox.bwrap import Bwrap
from kvci.sandbox.container import Docker
from tests.made_images import calibration_image

FILES = {
    "a.py": "x = 1\n",
    "package/b.py": "y = 2\n",
    "package/build/c.py": "z = 3\n",
    "tests/test_a.py": "pass\n",
}
CAPS = Caps(memory_mib=200, processes=64)


def made(kind: str, caps: Caps = CAPS) -> Sandbox:
    """Return a new sandbox of one kind."""
    if kind == "bwrap":
        bwrap.check()
        return Bwrap(FILES, caps=caps)
    return Docker(calibration_image(), FILES, caps)


@pytest.fixture(params=["bwrap", "docker"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def box(kind: str) -> Iterator[Sandbox]:
    sandbox = made(kind)
    yield sandbox
    sandbox.close()
    if isinstance(sandbox, Bwrap):
        assert not sandbox._folder.exists()
    if isinstance(sandbox, Docker):
        assert sandbox._is_gone()
