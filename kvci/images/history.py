"""Makes history-stripped images. Their git history ends with the instance's base commit.

A fix may be in later commits, tags, reflogs, stashes, or in objects that no ref names any more. It
is enough to check the objects: if the base commit reaches every object, nothing can name the fix.
"""

import threading
from typing import Any

from docker.errors import ImageNotFound

from kvci.docker.engine import ENGINE_ERRORS, OWNER, client, disk_full, has
from kvci.errors import UserError
from kvci.files import sha256_of
from kvci.host import process
from kvci.images.strip_script import CANNOT_STRIP, CHANGED, STRIP, UNCHANGED
from kvci.patience import PATIENCE_S
from kvci.sandbox import SandboxFailed

STRIPPED = "kvci/instance"
"""`kvci/instance:<id>` names the stripped image, or the image itself if it needs no strip."""
LOCK = threading.Lock()
"""kvci strips one image at a time, because a strip keeps a processor and the disk busy."""
STRIPPED_FROM = "kvci.image"
"""The label of a stripped image with the id of the original image."""
COMMENT = "history ends with the base"
"""The comment of a stripped image. An image that is made from a stripped image inherits its labels,
but not its comment."""


class CannotStrip(SandboxFailed):
    """The history of this image cannot be stripped; another try changes nothing."""


def history_stripped(image: str, base: str) -> str:
    """Return the name of an image's history-stripped image; make that image if it is missing.

    Raises SandboxFailed if the engine fails or does not have the image: a trial never waits for a
    registry. Raises CannotStrip if the history cannot be stripped.
    """
    try:
        digest = client().images.get(image).id
        with LOCK:
            if not has(name := _name(digest, base)):
                _make(image, digest, base)
        return name
    except ImageNotFound:
        raise SandboxFailed(f"Docker has no image {image}; run kvci images pull") from None
    except (*ENGINE_ERRORS, UserError) as error:
        raise SandboxFailed(f"Docker: {str(error)[:500]}") from None


def identity(image: str) -> str:
    """Return the id that the image had when it was pulled, even if it was stripped later.

    Raises the engine's error if the engine does not have the image.
    """
    found = client().images.get(image)
    return str(found.labels[STRIPPED_FROM] if is_stripped(found) else found.id)


def is_stripped(image: Any) -> bool:
    """True if kvci stripped this image; False if it was made from a stripped image."""
    return image.attrs.get("Comment") == COMMENT and STRIPPED_FROM in image.labels


def stripped_name(image: str, base: str) -> str:
    """Return the name of an image's history-stripped image, which may not exist yet.

    Empty if the engine does not have the image.
    """
    try:
        return _name(client().images.get(image).id, base)
    except ImageNotFound:
        return ""


def _name(digest: str, base: str) -> str:
    return f"{STRIPPED}:{sha256_of(f'{digest} {base}'.encode())[:24]}"


def _commit_config(image: Any) -> dict[str, Any]:
    """Return the configuration for the commit: the stripped image starts as the original does.

    Without this configuration the commit gets that of the container that stripped the image. The
    engine also replaces an empty command by the command of that container.
    """
    config = image.attrs["Config"]
    entry, command = config.get("Entrypoint") or [], config.get("Cmd") or []
    return {
        "Labels": {OWNER: "", STRIPPED_FROM: image.id},  # containers must not inherit the owner
        "Entrypoint": entry,
        "Cmd": command or ([] if entry else ["/bin/bash"]),
        "User": config.get("User") or "",
    }


def _make(image: str, digest: str, base: str) -> None:
    # On a slow disk a commit takes minutes, so the timeout is long.
    engine = client(PATIENCE_S)
    container = engine.containers.create(
        digest,
        ["-c", STRIP, "-", base],
        entrypoint="/bin/bash",
        user="root",
        network_mode="none",
        labels={OWNER: process()},
    )
    try:
        container.start()
        code = container.wait(timeout=1800)["StatusCode"]
        if code not in (UNCHANGED, CHANGED):
            # If the script was killed or the disk is full, its status says nothing about the image.
            failure = CannotStrip if code == CANNOT_STRIP and not disk_full() else SandboxFailed
            logs = container.logs()[-300:].decode(errors="replace").strip()
            raise failure(f"the history of {image} cannot be stripped: {logs}")
        stripped = engine.images.get(digest)
        if code == CHANGED:
            name, tag = _name(digest, base).split(":")  # kvci evicts only images with a name
            config = _commit_config(stripped)
            stripped = container.commit(name, tag, message=COMMENT, conf=config, pause=False)
        for name in {_name(digest, base), _name(stripped.id, base)}:
            stripped.tag(*name.split(":"))
    finally:
        container.remove(force=True, v=True)
