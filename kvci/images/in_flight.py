"""What kvci is pulling on this machine, so that what a killed one got is known as ours.

A file a name, from before the pull until the image is marked; while the engine speaks of it, the
file is touched.
"""

import contextlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kvci.docker import engine
from kvci.errors import UserError
from kvci.files import Document, sha256_of
from kvci.host import cache_folder, ended, process

SOON = timedelta(minutes=1)
"""After its last word a pull may have come; later it was somebody else's."""


class InFlight(Document):
    name: str
    engine: str
    """Its id."""
    process: str


def claim(name: str) -> bool:
    """Note that what comes under this name is ours; False if somebody else's has it already.

    Raises UserError where nothing can be noted.
    """
    if not is_there(name) and engine.has(name):
        return False
    try:
        InFlight(name=name, engine=engine.identity(), process=process()).write(_path(name))
    except OSError as error:
        raise UserError(
            f"{_folder()} cannot be written ({error.strerror}); say another place with KVCI_CACHE."
        ) from None
    return True


def is_there(name: str) -> bool:
    """A pull of this name was begun and has not come to its end."""
    return _path(name).exists()


def touch(name: str) -> None:
    with contextlib.suppress(OSError):
        os.utime(_path(name))


def drop(name: str) -> None:
    _path(name).unlink(missing_ok=True)


def left() -> list[str]:
    """The names that killed processes were pulling from this engine and that came with it; the
    claims of all that they left are dropped."""
    names = []
    for path in _folder().glob("*.json"):
        with contextlib.suppress(UserError, OSError):  # another process has dropped it meanwhile
            claim, heard = InFlight.read(path), datetime.fromtimestamp(path.stat().st_mtime, UTC)
            if claim.engine == engine.identity() and ended(claim.process):
                came = engine.last_pull(claim.name) if engine.has(claim.name) else None
                names += [claim.name] if came and came <= heard + SOON else []
                drop(claim.name)
    return names


def _folder() -> Path:
    return cache_folder() / "pulling"


def _path(name: str) -> Path:
    return _folder() / f"{sha256_of(f'{engine.identity()} {name}'.encode())[:24]}.json"
