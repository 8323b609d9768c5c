"""Requests to one repository's REST API: retries, pages, limited downloads, errors for users.

https://docs.github.com/en/rest, API version 2026-03-10.
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
    401: "give a token that is valid in GITHUB_TOKEN",
    403: "give the job `contents: write` and `pull-requests: write`",
    404: "check the repository's name, and that the token may see it",
}


class Rejected(UserError):
    """GitHub answers with 4xx, and not because of a rate limit."""

    def __init__(self, status: int, message: str) -> None:
        remedy = REMEDIES.get(status, "see its message")
        super().__init__(f"GitHub answers {status}: {message}; {remedy}.")
        self.message = message


class NotFound(Rejected):
    """GitHub answers 404: the thing does not exist, or the token may not see it."""


class Invalid(Rejected):
    """GitHub answers 422: for example because the thing exists already."""


class RestApi:
    """Every method raises Rejected if GitHub rejects the request, UserError if it does not answer.

    Paths start below the repository, `owner/name`.
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
        """Post a gzip file to a URL outside of the repository."""
        headers = {"content-type": "application/gzip"}
        return self._send("POST", url, params={"name": name}, headers=headers, content=content)

    def pages(self, path: str, key: str = "", **params: str) -> Iterator[Json]:
        """Yield the items of all pages of a list, which is the answer or its field `key`."""
        for page in count(1):
            answer = self.get(path, **params, per_page=PAGE, page=page)
            items = answer[key] if key else answer
            yield from items
            if len(items) < PAGE:
                return

    def download(self, path: str, max_bytes: int, accept: str = JSON) -> bytes:
        """Return the answer's body. Raises UserError too if it is larger than `max_bytes`.

        GitHub redirects to a storage host; httpx does not send the token there.
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
                        raise UserError(f"{answer.url} is larger than {max_bytes >> 20} MiB.")
                return answer

        _retry(read)
        return bytes(content)

    def _send(self, method: str, path: str, **more: Any) -> Any:
        answer = _retry(lambda: self._http.request(method, path, **more))
        return answer.json() if answer.content else None


def _retry(send: Callable[[], httpx.Response]) -> httpx.Response:
    """Send a request until it succeeds, at most five times.

    Another try follows a network failure, an answer of 5xx and a rate limit. Raises Rejected for
    any other answer, and UserError after the last try.
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
    """Return GitHub's message and its details; the first 200 characters of anything else."""
    try:
        found = answer.json()
        details = "; ".join(str(one.get("message", "")) for one in found.get("errors", []))
        return f"{found['message']} {details}".strip()
    except (ValueError, KeyError, AttributeError):
        return answer.text[:200]
