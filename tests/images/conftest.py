"""The images of real runs on this machine stay, whatever room the tests make."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from kvci.docker import engine
from kvci.errors import UserError
from kvci.images import image_cache

HOLD = """
import sys
from kvci.images import locks
for name in sys.argv[1:]:
    locks.hold(name)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="session", autouse=True)
def others() -> Iterator[None]:
    """Held by another process: what one holds itself it may let go."""
    try:
        engine.check()
    except UserError:
        yield
        return
    kept = [
        one.names for one in image_cache.ours() if not any("kvci-test/" in n for n in one.names)
    ]
    words = [sys.executable, "-c", HOLD, *(name for names in kept for name in names)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline() == b"held\n"
        yield
        holder.kill()
