"""What kvci is pulling on this machine, so that what a killed one got is known as ours.

A file a name, from before the pull until the image is marked.
"""

import contextlib
from pathlib import Path

from kvci.errors import UserError
from kvci.files import Document, sha256_of
from kvci.host import cache, ended, process
from kvci.sandbox import engine


class Claim(Document):
    name: str
    process: str


def claim(name: str) -> bool:
    """Note that what comes under this name is ours; False if somebody else's has it already."""
    if not _path(name).exists() and engine.has(name):
        return False
    Claim(name=name, process=process()).write(_path(name))
    return True


def drop(name: str) -> None:
    _path(name).unlink(missing_ok=True)


def left() -> list[str]:
    """The names that processes were pulling when they were killed."""
    names = []
    for path in _folder().glob("*.json"):
        with contextlib.suppress(UserError):  # another process has dropped it meanwhile
            claim = Claim.read(path)
            names += [claim.name] if ended(claim.process) else []
    return names


def _folder() -> Path:
    return cache() / "pulling"


def _path(name: str) -> Path:
    return _folder() / f"{sha256_of(name.encode())[:24]}.json"
