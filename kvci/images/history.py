"""Images whose git history ends with the instance's base commit: history-stripped images.

A fix may be in later commits, tags, reflogs, stashes, or in objects that no ref names any more. It
is enough to check the objects: if the base reaches every object, nothing can name the fix.
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
"""`kvci/instance:<id>` names the history-stripped image, or the image itself if it is clean."""
LOCK = threading.Lock()
"""Images are stripped one at a time: each strip keeps a processor and the disk busy."""
STRIPPED_FROM = "kvci.image"
"""A label: the id of the image that this one was stripped from."""
COMMENT = "history ends with the base"
"""The comment of the commit. An image that is made from a stripped one inherits its labels, but not
its comment."""


class CannotStrip(SandboxFailed):
    """The history of this image cannot be stripped; another try changes nothing."""


def history_stripped(image: str, base: str) -> str:
    """The name of the history-stripped image of an image; each is made once.

    Raises SandboxFailed if the engine does not have the image (no trial waits for a registry), and
    CannotStrip.
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
    """The id that the image had when it was pulled, before or after it was stripped.

    Raises the engine's error if the engine does not have it.
    """
    found = client().images.get(image)
    return str(found.labels[STRIPPED_FROM] if is_stripped(found) else found.id)


def is_stripped(image: Any) -> bool:
    """True if kvci stripped this image; False for an image that was made from a stripped one."""
    return image.attrs.get("Comment") == COMMENT and STRIPPED_FROM in image.labels


def stripped_name(image: str, base: str) -> str:
    """The name of its history-stripped image, made or not; empty if the engine lacks the image."""
    try:
        return _name(client().images.get(image).id, base)
    except ImageNotFound:
        return ""


def _name(digest: str, base: str) -> str:
    return f"{STRIPPED}:{sha256_of(f'{digest} {base}'.encode())[:24]}"


def _commit_config(image: Any) -> dict[str, Any]:
    """The configuration of the stripped image: it starts as the image itself does.

    Without it a commit takes the configuration of the container that stripped the image. The engine
    also takes the container's command in place of an empty one.
    """
    config = image.attrs["Config"]
    entry, command = config.get("Entrypoint") or [], config.get("Cmd") or []
    return {
        "Labels": {OWNER: "", STRIPPED_FROM: image.id},  # else its containers had this owner
        "Entrypoint": entry,
        "Cmd": command or ([] if entry else ["/bin/bash"]),
        "User": config.get("User") or "",
    }


def _make(image: str, digest: str, base: str) -> None:
    # On a slow disk a commit takes minutes, and two at once take more.
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
            # A script that was killed, or had no disk space, tells nothing about the image.
            failure = CannotStrip if code == CANNOT_STRIP and not disk_full() else SandboxFailed
            raise failure(f"the history of {image} cannot be stripped: {container.logs()[-300:]!r}")
        stripped = engine.images.get(digest)
        if code == CHANGED:
            name, tag = _name(digest, base).split(":")  # without a name it would never be evicted
            config = _commit_config(stripped)
            stripped = container.commit(name, tag, message=COMMENT, conf=config, pause=False)
        for name in {_name(digest, base), _name(stripped.id, base)}:
            stripped.tag(*name.split(":"))
    finally:
        container.remove(force=True, v=True)
