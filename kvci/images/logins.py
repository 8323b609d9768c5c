"""Logins at registries, from the environment and from `docker login`."""

import os
from dataclasses import dataclass

from docker import auth
from docker.errors import DockerException

from kvci.images.names import HUB

FIELDS = ("username", "password")


@dataclass(frozen=True)
class Login:
    """A login at one registry. kvci never sends it to another registry that a dataset names."""

    user: str
    password: str
    registry: str = HUB


def login() -> Login | None:
    """Return the login of the environment; None if its user or its password is not set.

    The variables are KVCI_REGISTRY_USER and KVCI_REGISTRY_PASSWORD. The login is for docker.io, or
    for the registry that KVCI_REGISTRY names.
    """
    user, password = (os.environ.get(f"KVCI_REGISTRY_{part}") for part in ("USER", "PASSWORD"))
    registry = os.environ.get("KVCI_REGISTRY") or HUB
    return Login(user, password, registry) if user and password else None


def login_for(registry: str, login: Login | None) -> Login | None:
    """Return the login if it is for this registry, else None."""
    return login if login and login.registry == registry else None


def docker_login(registry: str) -> Login | None:
    """Return the login that `docker login` stored for this registry; None if there is none."""
    try:
        found = auth.load_config().resolve_authconfig(registry) or {}
    except (DockerException, OSError, ValueError):
        return None  # the credential helper is not installed
    user, password = (found.get(part) or found.get(part.title()) for part in FIELDS)
    return Login(user, password, registry) if user and password else None
