"""The connection to the Docker engine: does it answer, what does it hold, how full is its disk."""

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
"""Label of a container: the process that it belongs to."""
RUN = "kvci.run"
"""Label of a container: the run that it belongs to."""
MIN_FREE_BYTES = 1 << 30
"""A disk with less free space than this, and than a twentieth of its size, counts as full."""
MIN_FREE_FILES = 10_000
"""The same for free inodes."""
PING_TIMEOUT_S = 5.0
STOP_PING_TIMEOUT_S, STOP_TIMEOUT_S = 1.0, 3.0
"""Timeouts while kvci is being stopped."""
BAD_REQUEST = 400
"""The engine's HTTP status for an image name that is not valid."""
MEASURING = "already running"
"""Part of the engine's error while it measures its disk for another client."""
API_MAX = "1.51"
"""The newest API version that kvci uses; later ones leave out fields that kvci reads."""
ENGINE_ERRORS = (DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError)
"""What the client raises when the engine refuses, fails or does not answer."""


@cache
def client(timeout_s: float = 60.0) -> Any:
    """This process's connection to the engine, with this timeout for each request.

    Raises UserError if the engine does not answer.
    """
    try:
        made = _connection(timeout=timeout_s, max_pool_size=256)
        made.ping()
    except ENGINE_ERRORS as error:
        raise UserError(
            f"Docker does not answer ({str(error)[:200]}); start it, or use --sandbox bwrap."
        ) from None
    return made


def _connection(**options: Any) -> Any:
    made = docker.from_env(**options)
    if version_lt(API_MAX, made.api.api_version):
        made = docker.from_env(version=API_MAX, **options)
    return made


@cache
def cpus() -> int:
    """The engine's number of CPUs. Cached, because the request takes 0.1 s."""
    count: int = client().info()["NCPU"]
    return count


def allows_insecure(registry: str) -> bool:
    """True if the engine's `insecure-registries` list this registry."""
    try:
        known = client().info()["RegistryConfig"]["IndexConfigs"]
    except (*ENGINE_ERRORS, UserError, KeyError):
        return False
    return registry in known and not known[registry]["Secure"]


def answers(timeout_s: float = PING_TIMEOUT_S) -> bool:
    """True if the engine answers a ping in time."""
    try:
        connection = _connection(timeout=timeout_s)
        try:
            return bool(connection.ping())
        finally:
            connection.close()
    except ENGINE_ERRORS:
        return False


def check() -> str:
    """The engine's version, for the manifest. Raises UserError if it does not answer."""
    version: str = client().version()["Version"]
    return version


def has(image: str) -> bool:
    """True if the engine has an image of this name. Raises UserError if it does not answer.

    The engine's list of images is no help: its filter knows only the short form of a name.
    """
    try:
        client().images.get(image)
    except NotFound:
        return False
    except APIError as error:
        if error.status_code != BAD_REQUEST:
            raise
        return False
    return True


@cache
def identity() -> str:
    """The engine's id, different on every machine. Raises UserError if it does not answer."""
    found: str = client().info()["ID"]
    return found


def last_pull(image: str) -> datetime | None:
    """When any client last pulled an image under this name.

    None if the engine knows of no pull: it keeps only recent events, since its own start.
    """
    filters = {"type": "image", "event": "pull"}
    now = int(time.time()) + 1
    known = client().events(since=1, until=now, filters=filters, decode=True)
    times = [event["time"] for event in known if event["Actor"]["ID"] == image]
    return datetime.fromtimestamp(max(times), UTC) if times else None


def images_with_sizes() -> list[dict[str, Any]]:
    """Each image with the size that it shares with others, as `docker system df` reports it.

    An engine before API 1.42 measures its containers too. That takes seconds, and it serves one
    client at a time, so this waits for its turn. Raises UserError if the engine does not answer.
    """
    api = client(PATIENCE_S).api
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            url = api._url("/system/df")
            answer = api._result(api._get(url, params={"type": "image"}), json=True)
            return answer["Images"] or []
        except APIError as error:
            if MEASURING not in str(error) or time.monotonic() > until or ENDING.wait(0.5):
                raise


def sweep(own: bool = False) -> None:
    """Remove the containers of this machine's ended kvci processes; with `own` this one's too.

    A stop does not wait for an engine that hangs; then the next start removes the containers.
    """
    if ENDING.is_set() and not answers(STOP_PING_TIMEOUT_S):
        return
    with contextlib.suppress(*ENGINE_ERRORS):
        made = client(STOP_TIMEOUT_S) if ENDING.is_set() else client()
        for container in made.containers.list(
            all=True, filters={"label": OWNER}, ignore_removed=True
        ):
            if ended(owner := container.labels[OWNER]) or (own and owner == process()):
                with contextlib.suppress(NotFound, APIError):
                    container.remove(force=True, v=True)


def disk_stats() -> os.statvfs_result | None:
    """State of the disk with the engine's images; None if this machine cannot read it."""
    root = _root_folder()
    try:
        return os.statvfs(root) if root else None
    except OSError:
        return None


@cache
def _root_folder() -> str:
    """The engine's folder; empty if the engine runs on another machine."""
    if not client().api.base_url.startswith(("http+docker:", "unix:")):
        return ""
    root: str = client().info()["DockerRootDir"]
    return root


def free_bytes() -> int | None:
    """Free space of the engine's disk; None if this machine cannot read it."""
    disk = disk_stats()
    return disk.f_bavail * disk.f_frsize if disk else None


def disk_full() -> bool:
    """True if the engine's disk has too little space for a container that writes."""
    disk = disk_stats()
    if disk is None:
        return False
    free, size = (blocks * disk.f_frsize for blocks in (disk.f_bavail, disk.f_blocks))
    return has_too_little(free, size, disk.f_favail, disk.f_files)


def has_too_little(free_bytes: int, size_bytes: int, free_files: int, max_files: int) -> bool:
    """True if a disk of this size has too few free bytes or inodes.

    A file system without a limit of inodes reports 0 for both `free_files` and `max_files`.
    """
    min_bytes = min(MIN_FREE_BYTES, size_bytes // 20)
    return free_bytes < min_bytes or free_files < min(MIN_FREE_FILES, max_files // 20)


def wait(patience_s: float = PATIENCE_S) -> None:
    """Return when the engine answers and its disk has space; UserError after `patience_s`."""
    patience.wait(_problem, patience_s)


def _problem() -> str:
    try:
        client().ping()
        return "Docker's disk is full; free some space there" if disk_full() else ""
    except (*ENGINE_ERRORS, UserError):
        return "Docker does not answer; start it"
