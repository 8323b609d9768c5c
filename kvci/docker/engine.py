"""The Docker engine: asked for, waited for, and its disk watched."""

import contextlib
import os
import time
from datetime import UTC, datetime
from functools import cache
from typing import Any

import docker
import requests
import urllib3
from docker.errors import APIError, DockerException, NotFound
from docker.utils import version_lt

from kvci import patience
from kvci.children import ENDING
from kvci.errors import UserError
from kvci.host import ended, process
from kvci.patience import PATIENCE_S

OWNER = "kvci.owner"
"""A label: the process that a container belongs to."""
RUN = "kvci.run"
"""A label: the run that it is for."""
FLOOR_BYTES = 1 << 30
"""A disk with less room than this, or than a twentieth of it, is full."""
FLOOR_FILES = 10_000
"""Or for fewer files than that, which the file system counts apart."""
ANSWER_S, SOON_S, LEAVING_S = 5.0, 1.0, 3.0
INVALID = 400
"""HTTP's status for what is no name."""
BUSY = "already running"
"""What an engine says that measures its disk for another."""
NEWEST = "1.51"
"""Of the engine's API; what came later leaves out things that kvci reads."""
GONE = (DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError)


@cache
def client(answer_s: float = 60.0) -> Any:
    """This process's connection, for requests that are answered so soon.

    Raises UserError if the engine does not answer.
    """
    try:
        made = _connection(timeout=answer_s, max_pool_size=256)
        made.ping()
    except GONE as error:
        raise UserError(
            f"Docker does not answer ({str(error)[:200]}); start it, or use bubblewrap."
        ) from None
    return made


def _connection(**options: Any) -> Any:
    made = docker.from_env(**options)
    if version_lt(NEWEST, made.api.api_version):
        made = docker.from_env(version=NEWEST, **options)
    return made


@cache
def cpus() -> int:
    """What the engine has; asking takes a tenth of a second."""
    count: int = client().info()["NCPU"]
    return count


def trusts(registry: str) -> bool:
    """True of a registry that it was told to take as it is (`insecure-registries`)."""
    try:
        known = client().info()["RegistryConfig"]["IndexConfigs"]
    except (*GONE, UserError, KeyError):
        return False
    return registry in known and not known[registry]["Secure"]


def answers(within_s: float = ANSWER_S) -> bool:
    """True if the engine answers soon: a command that took too long may have waited for it."""
    try:
        impatient = _connection(timeout=within_s)
        try:
            return bool(impatient.ping())
        finally:
            impatient.close()
    except GONE:
        return False


def check() -> str:
    """The engine's version, for the manifest. Raises UserError if it does not answer."""
    version: str = client().version()["Version"]
    return version


def has(image: str) -> bool:
    """True if the engine has an image of this name. Raises UserError if it does not answer.

    Not by its list, whose filter knows the short form of a name alone.
    """
    try:
        client().images.get(image)
    except NotFound:
        return False
    except APIError as error:
        if error.status_code != INVALID:
            raise
        return False
    return True


@cache
def identity() -> str:
    """Its id, which is another on another machine. Raises UserError if it does not answer."""
    found: str = client().info()["ID"]
    return found


def pulled(image: str) -> datetime | None:
    """When it was last pulled under this name, by whomever; None if it was not, or so long ago
    that the engine does not remember, or before the engine was started."""
    filters = {"type": "image", "event": "pull"}
    now = int(time.time()) + 1
    known = client().events(since=1, until=now, filters=filters, decode=True)
    times = [event["time"] for event in known if event["Actor"]["ID"] == image]
    return datetime.fromtimestamp(max(times), UTC) if times else None


def images_with_sizes() -> list[dict[str, Any]]:
    """Each image with what it shares, as `docker system df` says.

    An engine before API 1.42 measures its containers all the same, which takes it seconds, and
    does it for one at a time, whoever asks. Raises UserError if it does not answer.
    """
    api = client(PATIENCE_S).api
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            url = api._url("/system/df")
            said = api._result(api._get(url, params={"type": "image"}), json=True)
            return said["Images"] or []
        except APIError as error:
            if BUSY not in str(error) or time.monotonic() > until or ENDING.wait(0.5):
                raise


def sweep(own: bool = False) -> None:
    """Remove the containers of this machine's kvci processes that live no more, or are this one.

    A stop does not wait for an engine that hangs: then the next start removes them.
    """
    if ENDING.is_set() and not answers(SOON_S):
        return
    with contextlib.suppress(*GONE):
        soon = client(LEAVING_S) if ENDING.is_set() else client()
        for container in soon.containers.list(
            all=True, filters={"label": OWNER}, ignore_removed=True
        ):
            if ended(name := container.labels[OWNER]) or (own and name == process()):
                with contextlib.suppress(NotFound, APIError):
                    container.remove(force=True, v=True)


def room() -> os.statvfs_result | None:
    """Of the disk that the engine keeps its images on; None if that is another machine's."""
    root = _root()
    try:
        return os.statvfs(root) if root else None
    except OSError:
        return None


@cache
def _root() -> str:
    if not client().api.base_url.startswith(("http+docker:", "unix:")):
        return ""
    root: str = client().info()["DockerRootDir"]
    return root


def free_bytes() -> int | None:
    """What is free on the engine's disk, if that is this machine's."""
    disk = room()
    return disk.f_bavail * disk.f_frsize if disk else None


def full() -> bool:
    """True if a container that writes would soon fail."""
    disk = room()
    if disk is None:
        return False
    free, whole = (blocks * disk.f_frsize for blocks in (disk.f_bavail, disk.f_blocks))
    return short(free, whole, disk.f_favail, disk.f_files)


def short(free_bytes: int, whole_bytes: int, free_files: int, whole_files: int) -> bool:
    """True of a disk with so little left; one without a limit of files says 0 for them."""
    floor_bytes = min(FLOOR_BYTES, whole_bytes // 20)
    return free_bytes < floor_bytes or free_files < min(FLOOR_FILES, whole_files // 20)


def wait(patience_s: float = PATIENCE_S) -> None:
    """Return when the engine answers and its disk has room. Raises UserError if it never does."""
    patience.wait(_lacks, patience_s)


def _lacks() -> str:
    try:
        client().ping()
        return "Docker's disk is full; make room there" if full() else ""
    except (*GONE, UserError):
        return "Docker does not answer; start it"
