"""What a registry says of an image before it is pulled, at no pull's cost.

The manifest's head is asked for, as the OCI distribution specification has it (content discovery);
Docker Hub does not count it, and says in its headers how many pulls are left.
"""

import email.utils
import os
import re
import time
from dataclasses import dataclass
from typing import Any
from urllib.request import parse_http_list, parse_keqv_list

import httpx
from docker import auth
from docker.auth import resolve_repository_name
from docker.errors import DockerException, InvalidRepository
from docker.utils import parse_repository_tag

from kvci.docker import engine
from kvci.errors import UserError

HUB, HUB_API = "docker.io", "registry-1.docker.io"
ACCEPT = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "docker.distribution.manifest.v2",
        "docker.distribution.manifest.list.v2",
        "oci.image.manifest.v1",
        "oci.image.index.v1",
    )
)


NAMED = ("username", "password")


@dataclass(frozen=True)
class Login:
    """Of one registry; no other is told of it, whatever images a dataset names."""

    user: str
    password: str
    registry: str = HUB


@dataclass(frozen=True)
class RegistryAnswer:
    status: int
    """HTTP's; 0 where the registry did not answer."""
    why: str = ""
    remaining: int | None = None
    """Pulls left in its window, where it says so."""
    window_s: float | None = None
    """The window's length, where it says so."""
    wait_s: float | None = None
    """How long it asks to wait, where it does."""
    skew_s: float | None = None
    """How far this machine's clock is ahead of the registry's, where it says its time."""


def parts(image: str) -> tuple[str, str, str]:
    """Registry, repository and tag of an image's name."""
    name, tag = parse_repository_tag(image)
    registry, repository = resolve_repository_name(name)
    if registry == HUB and "/" not in repository:
        repository = f"library/{repository}"
    return registry, repository, tag or "latest"


def short(image: str) -> str:
    """The image's name as the engine lists it, whatever form a dataset gives it in.

    Raises UserError if it is none, or is one by digest, which cannot be given to another image.
    """
    try:
        registry, repository, tag = parts(image)
    except InvalidRepository as error:
        raise UserError(f"{image} is no image's name ({error}); see the dataset.") from None
    if not re.fullmatch(r"[a-z0-9]+(([._-]+|/)[a-z0-9]+)*", repository, re.ASCII):
        raise UserError(f"{image!r} is no image's name; see the dataset.")
    if ":" in tag:
        raise UserError(f"{image} names a digest; name the image by a tag in the dataset.")
    if registry == HUB:
        return f"{repository.removeprefix('library/')}:{tag}"
    return f"{registry}/{repository}:{tag}"


def ask(image: str, login: Login | None = None, timeout_s: float = 20.0) -> RegistryAnswer:
    """The registry's answer about one image. It never raises for what a registry does."""
    registry, repository, tag = parts(image)
    host = HUB_API if registry == HUB else registry
    login = known_to(registry, login) or kept(registry)
    for scheme, verify in _ways(host):
        url = f"{scheme}://{host}/v2/{repository}/manifests/{tag}"
        try:
            with httpx.Client(timeout=timeout_s, follow_redirects=True, verify=verify) as client:
                answer = _head(client, url, login)
            break
        except (httpx.HTTPError, KeyError, ValueError) as error:
            why = f"{registry} does not answer as a registry: {error or type(error)}"
    else:
        return RegistryAnswer(0, why)
    left, _, window = answer.headers.get("ratelimit-remaining", "").partition(";w=")
    return RegistryAnswer(
        answer.status_code,
        f"{registry} answers {answer.status_code}",
        int(left) if left.isdecimal() else None,
        float(window) if window.isdecimal() else None,
        _wait_s(answer.headers),
        _skew_s(answer.headers),
    )


def _ways(host: str) -> list[tuple[str, bool]]:
    """Scheme, and whether its certificate must be good; as the engine does it."""
    if host.partition(":")[0] in ("localhost", "127.0.0.1"):
        return [("http", True)]
    return [("https", False), ("http", True)] if engine.allows_insecure(host) else [("https", True)]


def _head(client: httpx.Client, url: str, login: Login | None) -> httpx.Response:
    answer = client.head(url, headers={"accept": ACCEPT})
    if answer.status_code != 401:
        return answer
    challenge = answer.headers.get("www-authenticate", "")
    bearer = challenge.lower().startswith("bearer")
    auth = _token(client, challenge, login) if bearer else _basic(login)
    return client.head(url, headers={"accept": ACCEPT}, auth=auth)


def login() -> Login | None:
    """The one that the environment gives: KVCI_REGISTRY_USER and KVCI_REGISTRY_PASSWORD.

    It is for docker.io, or for the registry that KVCI_REGISTRY names.
    """
    user, password = (os.environ.get(f"KVCI_REGISTRY_{part}") for part in ("USER", "PASSWORD"))
    registry = os.environ.get("KVCI_REGISTRY") or HUB
    return Login(user, password, registry) if user and password else None


def known_to(registry: str, login: Login | None) -> Login | None:
    """The login, if it is this registry's."""
    return login if login and login.registry == registry else None


def kept(registry: str) -> Login | None:
    """The one that `docker login` left for this registry."""
    try:
        found = auth.load_config().resolve_authconfig(registry) or {}
    except (DockerException, OSError, ValueError):
        return None  # a helper that is not there
    user, password = (found.get(part) or found.get(part.title()) for part in NAMED)
    return Login(user, password, registry) if user and password else None


def mirrored(image: str, mirror: str | None) -> str:
    """The image's name at a mirror, which has the same repositories."""
    if mirror is None:
        return image
    _, repository, tag = parts(image)
    return f"{mirror}/{repository}:{tag}"


def _token(client: httpx.Client, challenge: str, login: Login | None) -> Any:
    """What the challenge asks for, as Docker's registries give tokens."""
    asked = parse_keqv_list(parse_http_list(challenge.partition(" ")[2]))
    query = httpx.QueryParams({name: asked[name] for name in asked if name in ("service", "scope")})
    answer = client.get(asked["realm"], params=query, auth=_basic(login))
    said = answer.raise_for_status().json()
    token = said.get("token") or said["access_token"]

    def bear(request: httpx.Request) -> httpx.Request:
        request.headers["authorization"] = f"Bearer {token}"
        return request

    return bear


def _basic(login: Login | None) -> Any:
    return httpx.BasicAuth(login.user, login.password) if login else httpx.USE_CLIENT_DEFAULT


def _wait_s(headers: httpx.Headers) -> float | None:
    """Retry-After in seconds or as a date; some registries give the Unix time there."""
    value = headers.get("retry-after", headers.get("x-retry-after", ""))
    if value.isdecimal():
        number = float(value)
        return number if number < 1e9 else max(0.0, number - time.time())
    if not value:
        return None
    asked = _time(value)
    return None if asked is None else max(0.0, asked - time.time())


def _skew_s(headers: httpx.Headers) -> float | None:
    said = _time(headers.get("date", ""))
    return None if said is None else time.time() - said


def _time(text: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None
