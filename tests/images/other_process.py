"""Another process that locks images, as another kvci run does."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

LOCK = """
import sys
from kvci.images import locks
for name in sys.argv[1:]:
    locks.lock(name)
print("locked", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def locking(*images: str) -> Iterator[None]:
    """Lock these images in another process while the context is open."""
    words = [sys.executable, "-c", LOCK, *images]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"locked\n"
        try:
            yield
        finally:
            process.kill()
