"""Send requests to the REST API of one repository.

This module retries requests, reads all pages of a list, limits the size of downloads, and turns
errors into sentences. https://docs.github.com/en/rest describes the API; kvci uses its version
2026-03-10.
"""

import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import httpx

from kvci.errors import UserError

Json = dict[str, Any]
API = "https://api.github.com"
JSON = "application/vnd.github+json"
TRIES = 5
TIMEOUT_S = 60.0
PAGE = 100
REMEDIES = {
    401: "set GITHUB_TOKEN to a valid token",
    403: "give the job `contents: write` and `pull-requests: write`",
    404: "check the repository's name, and check that the token may read this repository",
}


class Rejected(UserError):
    """GitHub answers with a status 4xx for another reason than a rate limit."""

    def __init__(self, status: int, message: str) -> None:
        remedy = REMEDIES.get(status, "correct what this message names")
        super().__init__(f"GitHub answers {status}: {message}; {remedy}.")
        self.message = message


class NotFound(Rejected):
    """GitHub answers 404: the resource does not exist, or the token may not read it."""


class Invalid(Rejected):
    """GitHub answers 422, for example because the resource already exists."""


class TooLarge(UserError):
    """A download is larger than its limit."""


class RestApi:
    """Sends requests to the REST API of one repository, `owner/name`.

    Paths are relative to the repository's own path. Every method raises Rejected if GitHub rejects
    the request, and UserError if GitHub does not answer.
    """

    def __init__(self, repository: str, token: str, api: str) -> None:
        self._http = httpx.Client(
            base_url=f"{api}/repos/{repository}",
            headers={
                "authorization": f"Bearer {token}",
                "accept": JSON,
                "x-github-api-version": "2026-03-10",
            },
            timeout=TIMEOUT_S,
            follow_redirects=True,
        )

    def get(self, path: str, **params: Any) -> Any:
        """Return the answer's JSON."""
        return self._send("GET", path, params=params)

    def post(self, path: str, body: Json) -> Any:
        return self._send("POST", path, json=body)

    def patch(self, path: str, body: Json) -> Any:
        return self._send("PATCH", path, json=body)

    def delete(self, path: str) -> None:
        self._send("DELETE", path)

    def upload(self, url: str, name: str, content: bytes) -> Any:
        """Post a gzip file to a complete URL."""
        headers = {"content-type": "application/gzip"}
        return self._send("POST", url, params={"name": name}, headers=headers, content=content)

    def pages(self, path: str, key: str = "", **params: str) -> Iterator[Json]:
        """Yield the items of a list from all pages; a page is the answer or its field `key`."""
        for page in count(1):
            answer = self.get(path, **params, per_page=PAGE, page=page)
            items = answer[key] if key else answer
            yield from items
            if len(items) < PAGE:
                return

    def download(self, path: str, max_bytes: int, accept: str = JSON) -> bytes:
        """Return the answer's body. Raises TooLarge if it is larger than `max_bytes`.

        GitHub redirects to a storage host. httpx does not send the token to that host.
        """
        content = bytearray()

        def read() -> httpx.Response:
            content.clear()
            with self._http.stream("GET", path, headers={"accept": accept}) as answer:
                if not answer.is_success:
                    answer.read()
                    return answer
                for part in answer.iter_bytes():
                    content.extend(part)
                    if len(content) > max_bytes:
                        raise TooLarge(f"{answer.url} is larger than {max_bytes >> 20} MiB.")
                return answer

        _retry(read)
        return bytes(content)

    def _send(self, method: str, path: str, **more: Any) -> Any:
        answer = _retry(lambda: self._http.request(method, path, **more))
        return answer.json() if answer.content else None


def _retry(send: Callable[[], httpx.Response]) -> httpx.Response:
    """Send a request until it succeeds, at most five times.

    A network failure, a status 5xx and a rate limit lead to another try. Raises Rejected if GitHub
    answers with another error, and UserError if the last try fails.
    """
    why = ""
    for retries in range(TRIES):
        wait_s = 2.0**retries
        try:
            answer = send()
        except httpx.HTTPError as error:
            why = f"{type(error).__name__}: {error}"
        else:
            if answer.is_success:
                return answer
            status, why = answer.status_code, _message(answer)
            limited = status == 429 or (status == 403 and "rate limit" in answer.text.lower())
            if status < 500 and not limited:
                raise {404: NotFound, 422: Invalid}.get(status, Rejected)(status, why)
            if limited:
                asked = answer.headers.get("retry-after", "")
                wait_s = float(asked) if asked.isdecimal() else 60.0
        if retries + 1 < TRIES:
            time.sleep(wait_s)
    raise UserError(f"GitHub does not answer ({why[:200]}); run the same command again later.")


def _message(answer: httpx.Response) -> str:
    """Return GitHub's message and its details, or the first 200 characters of another answer."""
    try:
        found = answer.json()
        details = "; ".join(str(one.get("message", "")) for one in found.get("errors", []))
        return f"{found['message']} {details}".strip()
    except (ValueError, KeyError, AttributeError):
        return answer.text[:200]
