"""Asks a registry about an image before the image is pulled.

The request is a HEAD of the manifest (OCI distribution specification, content discovery). Docker
Hub does not count this request as a pull. The answer's headers say how many pulls are left.
"""

import email.utils
import time
from dataclasses import dataclass
from typing import Any
from urllib.request import parse_http_list, parse_keqv_list

import httpx

from kvci.docker import engine
from kvci.images.logins import Login, docker_login, login_for
from kvci.images.names import HUB, parse_name

HUB_API = "registry-1.docker.io"
ACCEPT = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "docker.distribution.manifest.v2",
        "docker.distribution.manifest.list.v2",
        "oci.image.manifest.v1",
        "oci.image.index.v1",
    )
)
TOKEN_FIELDS = ("service", "scope")


@dataclass(frozen=True)
class RegistryAnswer:
    """A registry's answer about one image. A value is None if the registry does not report it."""

    status: int
    """The HTTP status; 0 if the registry did not answer."""
    why: str = ""
    remaining: int | None = None
    """The number of pulls that are left in the current window of time."""
    window_s: float | None = None
    """The length of that window."""
    wait_s: float | None = None
    """How long the registry asks to wait."""
    skew_s: float | None = None
    """How far this machine's clock is ahead of the registry's clock."""


def ask(image: str, login: Login | None = None, timeout_s: float = 20.0) -> RegistryAnswer:
    """Return the registry's answer about one image. Its status is 0 if the registry fails."""
    registry, repository, tag = parse_name(image)
    host = HUB_API if registry == HUB else registry
    login = login_for(registry, login) or docker_login(registry)
    for scheme, verify in _schemes(host):
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


def _schemes(host: str) -> list[tuple[str, bool]]:
    """Return the schemes to try, in the engine's order; True: the certificate is verified."""
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


def _token(client: httpx.Client, challenge: str, login: Login | None) -> Any:
    """Return the authentication that the challenge asks for: a token of the token server."""
    fields = parse_keqv_list(parse_http_list(challenge.partition(" ")[2]))
    query = httpx.QueryParams({name: fields[name] for name in fields if name in TOKEN_FIELDS})
    answer = client.get(fields["realm"], params=query, auth=_basic(login))
    body = answer.raise_for_status().json()
    token = body.get("token") or body["access_token"]

    def authorize(request: httpx.Request) -> httpx.Request:
        request.headers["authorization"] = f"Bearer {token}"
        return request

    return authorize


def _basic(login: Login | None) -> Any:
    return httpx.BasicAuth(login.user, login.password) if login else httpx.USE_CLIENT_DEFAULT


def _wait_s(headers: httpx.Headers) -> float | None:
    """Return how long to wait.

    Retry-After is a number of seconds, a date or, at some registries, a Unix time.
    """
    value = headers.get("retry-after", headers.get("x-retry-after", ""))
    if value.isdecimal():
        number = float(value)
        return number if number < 1e9 else max(0.0, number - time.time())
    if not value:
        return None
    until = _time(value)
    return None if until is None else max(0.0, until - time.time())


def _skew_s(headers: httpx.Headers) -> float | None:
    registry_time = _time(headers.get("date", ""))
    return None if registry_time is None else time.time() - registry_time


def _time(text: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None
