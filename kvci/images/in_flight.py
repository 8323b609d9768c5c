"""Records the in-flight pulls of this machine, so that kvci knows what a killed process pulled.

Each pull has a file in kvci's cache folder. kvci writes it before the pull and removes it after the
image is marked as kvci's. Each message of the engine about the pull updates the file's time.
"""

import contextlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kvci.docker import engine
from kvci.errors import UserError
from kvci.files import Document, sha256_of
from kvci.host import cache_folder, ended, process

GRACE = timedelta(minutes=1)
"""A pull may end this long after the engine's last message. Later pulls are another program's."""


class InFlight(Document):
    """One pull that has not ended."""

    name: str
    engine: str
    """The engine's id."""
    process: str


def begin(name: str) -> bool:
    """Record that kvci pulls this name; False if another program's image already has this name.

    Raises UserError if the record cannot be written.
    """
    if not exists(name) and engine.has(name):
        return False
    try:
        InFlight(name=name, engine=engine.identity(), process=process()).write(_path(name))
    except OSError as error:
        raise UserError(
            f"{_folder()} cannot be written ({error.strerror}); set KVCI_CACHE to another folder."
        ) from None
    return True


def exists(name: str) -> bool:
    """True if a pull of this name began and has not ended."""
    return _path(name).exists()


def touch(name: str) -> None:
    with contextlib.suppress(OSError):
        os.utime(_path(name))


def end(name: str) -> None:
    _path(name).unlink(missing_ok=True)


def take_abandoned() -> list[str]:
    """Return the names of the images that killed processes pulled and that have arrived.

    Remove every record of a killed process, even if its image has not arrived.
    """
    names = []
    for path in _folder().glob("*.json"):
        with contextlib.suppress(UserError, OSError):  # another process has just removed it
            pull = InFlight.read(path)
            touched = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            if pull.engine == engine.identity() and ended(pull.process):
                pulled = engine.last_pull(pull.name) if engine.has(pull.name) else None
                names += [pull.name] if pulled and pulled <= touched + GRACE else []
                end(pull.name)
    return names


def _folder() -> Path:
    return cache_folder() / "pulling"


def _path(name: str) -> Path:
    return _folder() / f"{sha256_of(f'{engine.identity()} {name}'.encode())[:24]}.json"
