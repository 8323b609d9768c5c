"""Connects to the Docker engine; reports its state, its images and the space on its disk."""

import contextlib
import os
import time
from collections.abc import Sequence
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
from kvci.free_space import is_full
from kvci.host import ended, process
from kvci.patience import PATIENCE_S

OWNER = "kvci.owner"
"""The label that names the kvci process that owns a container."""
RUN = "kvci.run"
"""The label that names the run that a container belongs to."""
PING_TIMEOUT_S = 5.0
STOP_PING_TIMEOUT_S, STOP_TIMEOUT_S = 1.0, 3.0
"""Timeouts of a ping and of a request while kvci is being stopped."""
SWEEP_TIMEOUT_S = 20.0
"""How long a start of kvci waits until an old container is removed."""
BAD_REQUEST = 400
"""The engine's HTTP status for an image name that is not valid."""
MEASURING = "already running"
"""Part of the engine's error message while the engine measures its disk for another client."""
API_MAX = "1.51"
"""The newest API version that kvci uses. Later versions leave out fields that kvci reads."""
ENGINE_ERRORS = (DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError)
"""The exceptions that the client raises if the engine refuses, fails or does not answer."""


@cache
def client(timeout_s: float = 60.0) -> Any:
    """Return this process's connection to the engine. Each request has this timeout.

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
    """Return the engine's number of CPUs. It is cached, because the request takes 0.1 s."""
    count: int = client().info()["NCPU"]
    return count


def allows_insecure(registry: str) -> bool:
    """True if the engine's setting `insecure-registries` lists this registry."""
    try:
        known = client().info()["RegistryConfig"]["IndexConfigs"]
    except (*ENGINE_ERRORS, UserError, KeyError):
        return False
    return registry in known and not known[registry]["Secure"]


def answers(timeout_s: float = PING_TIMEOUT_S) -> bool:
    """True if the engine answers a ping within `timeout_s`."""
    try:
        connection = _connection(timeout=timeout_s)
        try:
            return bool(connection.ping())
        finally:
            connection.close()
    except ENGINE_ERRORS:
        return False


def check() -> str:
    """Return the version for the manifest.

    Raises UserError if the engine does not answer, or if it cannot filter system calls.
    """
    version: str = client().version()["Version"]
    if not has_seccomp(client().info().get("SecurityOptions") or []):
        raise UserError(
            "The Docker engine cannot filter system calls, so it cannot contain the model's "
            "commands; use an engine and a kernel with seccomp."
        )
    return version


def has_seccomp(options: Sequence[str]) -> bool:
    """True if these security options of the engine name seccomp."""
    return any("name=seccomp" in option for option in options)


def has(image: str) -> bool:
    """True if the engine has an image of this name.

    The filter of the engine's list of images would know only the short form of a name. Raises
    UserError if the engine does not answer.
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
    """Return the id of this machine's engine. Raises UserError if the engine does not answer."""
    found: str = client().info()["ID"]
    return found


def last_pull(image: str) -> datetime | None:
    """Return when a client last pulled an image under this name.

    None if the engine knows of no pull. It forgets old events, and all events when it restarts.
    """
    filters = {"type": "image", "event": "pull"}
    now = int(time.time()) + 1
    known = client().events(since=1, until=now, filters=filters, decode=True)
    times = [event["time"] for event in known if event["Actor"]["ID"] == image]
    return datetime.fromtimestamp(max(times), UTC) if times else None


def images_with_sizes() -> list[dict[str, Any]]:
    """Return each image, with the size that it shares with other images (`docker system df`).

    An engine before API 1.42 measures its containers too, which takes seconds. It does so for one
    client at a time, so this function waits for other clients. Raises UserError if the engine does
    not answer.
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
    """Remove the containers of this machine's ended kvci processes.

    With `own`, remove the containers of this process too. While kvci is being stopped, it does not
    wait for an engine that hangs. The next start of kvci then removes the containers.
    """
    if ENDING.is_set() and not answers(STOP_PING_TIMEOUT_S):
        return
    with contextlib.suppress(*ENGINE_ERRORS):
        api = client(STOP_TIMEOUT_S if ENDING.is_set() else SWEEP_TIMEOUT_S).api
        for found in api.containers(all=True, filters={"label": OWNER}):
            if ended(owner := found["Labels"][OWNER]) or (own and owner == process()):
                # The engine may never answer about one container, and remove the others.
                with contextlib.suppress(*ENGINE_ERRORS):
                    api.remove_container(found["Id"], force=True, v=True)


def disk_stats() -> os.statvfs_result | None:
    """Return the state of the engine's disk; None if this machine cannot read it."""
    root = _root_folder()
    try:
        return os.statvfs(root) if root else None
    except OSError:
        return None


@cache
def _root_folder() -> str:
    """Return the engine's folder; empty if the engine runs on another machine."""
    if not client().api.base_url.startswith(("http+docker:", "unix:")):
        return ""
    root: str = client().info()["DockerRootDir"]
    return root


def free_bytes() -> int | None:
    """Return the free space of the engine's disk; None if this machine cannot read it."""
    disk = disk_stats()
    return disk.f_bavail * disk.f_frsize if disk else None


def disk_full() -> bool:
    """True if the engine's disk has too little space for a container that writes."""
    disk = disk_stats()
    return disk is not None and is_full(disk)


def wait(patience_s: float = PATIENCE_S) -> None:
    """Wait until the engine answers and its disk has space. Raises UserError after `patience_s`."""
    patience.wait(problem, patience_s)


def problem() -> str:
    """Return what is wrong with the engine or its disk, and what to do; empty if nothing is."""
    try:
        client().ping()
        return "Docker's disk is full; free some space there" if disk_full() else ""
    except (*ENGINE_ERRORS, UserError):
        return "Docker does not answer; start it"
