"""Logins at registries: from the environment, and what `docker login` stored."""

import os
from dataclasses import dataclass

from docker import auth
from docker.errors import DockerException

from kvci.images.names import HUB

FIELDS = ("username", "password")


@dataclass(frozen=True)
class Login:
    """A login at one registry. kvci sends it to no other, whatever images a dataset names."""

    user: str
    password: str
    registry: str = HUB


def login() -> Login | None:
    """The login that KVCI_REGISTRY_USER and KVCI_REGISTRY_PASSWORD give; None if one is not set.

    It is for docker.io, or for the registry that KVCI_REGISTRY names.
    """
    user, password = (os.environ.get(f"KVCI_REGISTRY_{part}") for part in ("USER", "PASSWORD"))
    registry = os.environ.get("KVCI_REGISTRY") or HUB
    return Login(user, password, registry) if user and password else None


def login_for(registry: str, login: Login | None) -> Login | None:
    """The login if it is for this registry, else None."""
    return login if login and login.registry == registry else None


def docker_login(registry: str) -> Login | None:
    """The login that `docker login` stored for this registry; None if it stored none."""
    try:
        found = auth.load_config().resolve_authconfig(registry) or {}
    except (DockerException, OSError, ValueError):
        return None  # the credential helper is not installed
    user, password = (found.get(part) or found.get(part.title()) for part in FIELDS)
    return Login(user, password, registry) if user and password else None
