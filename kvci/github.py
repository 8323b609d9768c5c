"""The few calls of GitHub's REST API that publishing needs.

https://docs.github.com/en/rest, API version 2026-03-10.
"""

import base64
import itertools
import os
import re
import time
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from kvci.errors import UserError

API = "https://api.github.com"
TRIES = 5
TIMEOUT_S = 60.0
PAGE = 100
FILES = ("100644", "100755")
"""As git's trees have them; 120000 is a link."""
ARTIFACT_PAGES = 10
LAST_RUNS = 30
BOT = "github-actions[bot]"
"""Who does what a job does with its own token."""
MAX_COMMENT = 60_000
"""GitHub takes 65,536 characters."""
REMEDIES = {
    401: "give a token that is valid in GITHUB_TOKEN",
    403: "give the job `contents: write` and `pull-requests: write`",
    404: "check the repository's name, and that the token may see it",
}
MAY_NOT_OPEN = "not permitted to create or approve pull requests"
ALLOW = (
    'turn on "Allow GitHub Actions to create and approve pull requests" in the repository\'s '
    "settings, under Actions, General; or give the token of an App"
)


def web() -> str:
    """GitHub's own address, as a job is told it."""
    return os.environ.get("GITHUB_SERVER_URL", "https://github.com")


def run_url(repository: str) -> str:
    """Of the workflow's run that this is a job of; empty if it is none."""
    number = os.environ.get("GITHUB_RUN_ID")
    return f"{web()}/{repository}/actions/runs/{number}" if number else ""


class Rejected(Exception):
    """An answer of 4xx that the caller may know what to do with."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"GitHub answers {status}: {message}")
        self.status, self.message = status, message


@dataclass(frozen=True)
class PullRequest:
    number: int
    url: str
    head: str
    """The commit that it asks to merge."""
    base: str = ""
    """The commit that it asks to merge it into."""
    into: str = ""
    """That commit's branch."""
    default: str = ""
    """The repository's default branch."""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Artifact:
    number: int
    name: str
    created: str
    branch: str
    foreign: bool
    """Of a fork's workflow."""


@dataclass(frozen=True)
class WorkflowRun:
    created: str
    title: str
    state: Literal["waits", "works", "held", "given up", "done"]
    """Its jobs wait for a runner; some job is at work; one waits for somebody's approval, and none
    is at work; they ended without ever having a runner; else."""
    by_job: bool
    """A workflow started it, no person."""
    jobs: int = 0
    untaken: int = 0
    """Of them, those that no runner has taken."""


@dataclass
class GitHub:
    """`repository` is owner/name. Every method raises UserError where GitHub refuses for good."""

    repository: str
    token: str
    api: str = API
    _http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        headers = {
            "authorization": f"Bearer {self.token}",
            "accept": "application/vnd.github+json",
            "x-github-api-version": "2026-03-10",
        }
        self._http = httpx.Client(headers=headers, timeout=TIMEOUT_S, follow_redirects=True)

    def pull_request(self, branch: str, base: str, title: str, body: str) -> PullRequest:
        """The open pull request of this branch, updated; a new one if there is none."""
        text = {"title": title, "body": body}
        if found := self._open(branch, base):
            return _pull(self._call("PATCH", f"/pulls/{found['number']}", text))
        try:
            made = self._try("POST", "/pulls", text | {"head": branch, "base": base})
        except Rejected as error:
            if error.status == 403 and MAY_NOT_OPEN in error.message:
                raise UserError(f"GitHub lets no job open pull requests here; {ALLOW}.") from None
            found = self._open(branch, base) if error.status == 422 else None
            if not found:  # else another publisher was faster
                raise _final(error) from None
            made = self._call("PATCH", f"/pulls/{found['number']}", text)
        return _pull(made)

    def attach(self, tag: str, target: str, name: str, content: bytes) -> str:
        """Put a file into the release of this tag, which is made if need be; its URL.

        A file's name holds its hash, so one that is there already is the same.
        """
        release = self._release(tag, target)
        if there := _asset(release, name, len(content)):
            return there
        url = release["upload_url"].partition("{")[0]
        given = {"params": {"name": name}, "headers": {"content-type": "application/gzip"}}
        try:
            made = self._try("POST", url, content=content, **given)
        except Rejected as error:
            if error.status != 422:
                raise _final(error) from None
            release = self._release(tag, target)  # another publisher's, or half of one
            if there := _asset(release, name, len(content)):
                return there
            for asset in release["assets"]:
                if asset["name"] == name:
                    self._call("DELETE", f"/releases/assets/{asset['id']}")
            made = self._call("POST", url, content=content, **given)
        return str(made["browser_download_url"])

    def attached(self, url: str, web: str, max_bytes: int) -> bytes:
        """What lies at this URL of this repository's releases; `web` is GitHub's own.

        Raises UserError for any other URL, and if it cannot be had or is larger.
        """
        ours = re.escape(f"{web}/{self.repository}/releases/download/")
        found = re.fullmatch(rf"{ours}([\w-][\w.-]*)/([\w-][\w.-]*)", url, re.ASCII)
        if not found:
            raise UserError(f"{url[:200]} is no release of this repository.")
        tag, name = found.groups()
        try:
            assets = self._try("GET", f"/releases/tags/{tag}")["assets"]
        except Rejected as error:
            raise UserError(f"The release {tag} cannot be had: {error}.") from None
        number = next((asset["id"] for asset in assets if asset["name"] == name), None)
        if number is None:
            raise UserError(f"The release {tag} has no file {name}.")
        place = f"{self.api}/repos/{self.repository}/releases/assets/{number}"
        return fetch(
            place, max_bytes, dict(self._http.headers) | {"accept": "application/octet-stream"}
        )

    def dispatch(self, workflow: str, branch: str, inputs: dict[str, str]) -> None:
        """Start a workflow of this repository."""
        asked = {"ref": branch, "inputs": inputs}
        try:
            self._try("POST", f"/actions/workflows/{workflow}/dispatches", asked)
        except Rejected as error:
            if error.status == 404:
                raise UserError(
                    f"There is no workflow {workflow} on the branch {branch} that this token may "
                    "start; copy it there, and give the job `actions: write`."
                ) from None
            raise _final(error) from None

    def may_write(self, user: str) -> bool:
        """True of who may push to the repository; GitHub says `write` of its maintainers, too."""
        try:
            said = self._try("GET", f"/collaborators/{user}/permission")
        except Rejected as error:
            if error.status == 404:
                return False
            raise _final(error) from None
        return said["permission"] in ("admin", "write")

    def pull(self, number: int) -> PullRequest:
        return _pull(self._call("GET", f"/pulls/{number}"))

    def changed(self, number: int) -> list[str]:
        """The paths that a pull request touches, those that it moves away among them."""
        found = self._pages(f"/pulls/{number}/files")
        paths = [one["filename"] for one in found]
        return paths + [one["previous_filename"] for one in found if "previous_filename" in one]

    def merge_base(self, base: str, head: str) -> str:
        """The commit at which the two parted."""
        answer = self._call("GET", f"/compare/{base}...{head}", params={"per_page": 1})
        return str(answer["merge_base_commit"]["sha"])

    def branch(self, name: str) -> str:
        """Its commit; empty if there is no such branch."""
        try:
            return str(self._try("GET", f"/git/ref/heads/{name}")["object"]["sha"])
        except Rejected as error:
            if error.status == 404:
                return ""
            raise _final(error) from None

    def tree(self, commit: str) -> dict[str, str]:
        """Path -> blob of all files of a commit; of what is none, a link or a submodule, empty."""
        answer = self._call("GET", f"/git/trees/{commit}", params={"recursive": "1"})
        if answer["truncated"]:
            raise UserError(f"{self.repository} has too many files for GitHub to list them.")
        return {
            one["path"]: one["sha"] if one["mode"] in FILES else ""
            for one in answer["tree"]
            if one["type"] != "tree"
        }

    def blob(self, sha: str) -> bytes:
        return base64.b64decode(self._call("GET", f"/git/blobs/{sha}")["content"])

    def status(self, commit: str, state: str, context: str, line: str, url: str) -> None:
        """Beside the commit, wherever it is shown: pending, success or failure."""
        said = {"state": state, "context": context}
        said |= {"description": line[:140]} | ({"target_url": url} if url else {})
        self._call("POST", f"/statuses/{commit}", said)

    def comment(self, number: int, mark: str, text: str) -> None:
        """The comment of ours that begins with the mark, written anew; one if there is none.

        Of several, which jobs side by side have made, the oldest stays.
        """
        body = {"body": text if len(text) <= MAX_COMMENT else f"{text[:MAX_COMMENT]}\n\nCut here."}
        there = self._ours(number, mark)
        if not there:
            made = self._call("POST", f"/issues/{number}/comments", body)
            there = self._ours(number, mark) or [made]
            if there[0]["id"] == made["id"]:
                return
        self._call("PATCH", f"/issues/comments/{there[0]['id']}", body)
        for double in there[1:]:
            try:
                self._try("DELETE", f"/issues/comments/{double['id']}")
            except Rejected as error:
                if error.status != 404:  # else another job was faster
                    raise _final(error) from None

    def commented(self, number: int, mark: str) -> str:
        """What the comment of ours says that begins with the mark; empty if there is none."""
        there = self._ours(number, mark)
        return str(there[0]["body"]) if there else ""

    def _ours(self, number: int, mark: str) -> list[dict[str, Any]]:
        """The oldest first."""
        found = [
            one
            for one in self._pages(f"/issues/{number}/comments")
            if (one["body"] or "").startswith(mark)
            and (one["user"] or {}).get("login") == BOT  # that of a user who is gone is null
        ]
        return sorted(found, key=lambda one: int(one["id"]))

    def _pages(
        self, path: str, under: str = "", most: int = 0, **asked: str
    ) -> list[dict[str, Any]]:
        """Of a list, or of the one `under` this name; of so many pages at `most`."""
        found: list[dict[str, Any]] = []
        for page in itertools.count(1):
            answer = self._call("GET", path, params=asked | {"per_page": PAGE, "page": page})
            some = answer[under] if under else answer
            found += some
            if len(some) < PAGE or page == most:
                return found
        raise AssertionError

    def artifacts(self, name: str = "") -> list[Artifact]:
        """Those of this name, or of any, among the newest thousand that are still there."""
        asked = {"name": name} if name else {}
        made = []
        for one in self._pages("/actions/artifacts", "artifacts", ARTIFACT_PAGES, **asked):
            run = one["workflow_run"]  # null if it is gone, and then nobody knows whose it was
            if run and not one["expired"]:
                foreign = run["head_repository_id"] != run["repository_id"]
                branch = run["head_branch"]
                made.append(Artifact(one["id"], one["name"], one["created_at"], branch, foreign))
        return made

    def artifact(self, number: int, max_bytes: int) -> bytes:
        """As GitHub gives it, a zip. Raises UserError if it is larger."""
        url = f"{self.api}/repos/{self.repository}/actions/artifacts/{number}/zip"
        return fetch(url, max_bytes, dict(self._http.headers))

    def runs(self, workflow: str, job: str) -> list[WorkflowRun]:
        """The last runs of a workflow, the newest first, by what became of their jobs named
        `job` and something."""
        path = f"/actions/workflows/{workflow}/runs"
        found = self._call("GET", path, params={"per_page": LAST_RUNS})["workflow_runs"]
        return [_run(one, self._jobs(one["id"], job)) for one in found]

    def _jobs(self, run: int, name: str) -> list[dict[str, Any]]:
        found = self._pages(f"/actions/runs/{run}/jobs", "jobs")
        # Called from another workflow, its job's name stands before it. One that was skipped,
        # because the plan failed, waited for no runner.
        return [
            one
            for one in found
            if re.search(rf"(^|/ ){re.escape(name)} ", one["name"])
            and one["conclusion"] != "skipped"
        ]

    def at_work(self, number: int) -> bool:
        """True of a workflow's run that has not ended; False if there is none of this number."""
        try:
            return str(self._try("GET", f"/actions/runs/{number}")["status"]) != "completed"
        except Rejected as error:
            if error.status == 404:
                return False
            raise _final(error) from None

    def run_created(self, number: int) -> str:
        """When a workflow's run was made, in UTC; its attempts do not change that."""
        return str(self._call("GET", f"/actions/runs/{number}")["created_at"])

    def _open(self, branch: str, base: str) -> dict[str, Any] | None:
        owner = self.repository.partition("/")[0]
        asked = {"head": f"{owner}:{branch}", "base": base, "state": "open"}
        found = self._call("GET", "/pulls", params=asked)
        return found[0] if found else None

    def _release(self, tag: str, target: str) -> dict[str, Any]:
        try:
            return dict(self._try("GET", f"/releases/tags/{tag}"))
        except Rejected as error:
            if error.status != 404:
                raise _final(error) from None
        text = {"tag_name": tag, "target_commitish": target, "name": tag, "make_latest": "false"}
        try:
            return dict(self._try("POST", "/releases", text | {"prerelease": True}))
        except Rejected as error:
            if error.status != 422:
                raise _final(error) from None
            return dict(self._call("GET", f"/releases/tags/{tag}"))

    def _call(self, method: str, path: str, body: Any = None, **other: Any) -> Any:
        try:
            return self._try(method, path, body, **other)
        except Rejected as error:
            raise _final(error) from None

    def _try(self, method: str, path: str, body: Any = None, **other: Any) -> Any:
        """JSON of a call's answer; where it is busy it is tried again. Raises Rejected."""
        url = path if path.startswith("http") else f"{self.api}/repos/{self.repository}{path}"
        if body is not None:
            other["json"] = body
        why = ""
        for attempt in range(TRIES):
            wait_s: float | None = float(2**attempt)
            try:
                answer = self._http.request(method, url, **other)
            except httpx.HTTPError as error:
                why = f"{type(error).__name__}: {error}"
            else:
                if answer.is_success:
                    return answer.json() if answer.content else None
                why, wait_s = _message(answer), _wait_s(answer, attempt)
            if wait_s is None:
                raise Rejected(answer.status_code, why)
            time.sleep(wait_s)
        raise UserError(f"GitHub does not answer ({why[:200]}); publish again later.")


def _asset(release: dict[str, Any], name: str, size: int) -> str:
    """The URL of a release's file that is there whole; empty if it is not."""
    for asset in release["assets"]:
        if asset["name"] == name and asset["state"] == "uploaded" and asset["size"] == size:
            return str(asset["browser_download_url"])
    return ""


def _run(run: dict[str, Any], jobs: list[dict[str, Any]]) -> WorkflowRun:
    """A job that no runner takes is ended after a day; a run is then completed as any other."""
    untaken = [one for one in jobs if not one["runner_id"]]
    taken = [one for one in jobs if one["runner_id"]]
    state: Any = "works"
    if run["status"] == "completed":
        state = "given up" if untaken and not taken else "done"
    elif run["status"] == "waiting":
        state = "held"
    elif untaken and all(one["status"] == "completed" for one in taken):
        state = "waits"
    return WorkflowRun(
        str(run["created_at"]),
        str(run["display_title"]),
        state,
        (run["actor"] or {}).get("login") == BOT,
        len(jobs),
        len(untaken),
    )


def fetch(url: str, max_bytes: int, headers: dict[str, str] | None = None) -> bytes:
    """What lies at a URL; where it is busy it is tried again.

    GitHub sends on to a storage elsewhere, which is not told the token. Raises UserError if it
    cannot be had or is larger.
    """
    why = ""
    for attempt in range(TRIES):
        try:
            return _fetch(url, max_bytes, headers)
        except httpx.HTTPError as error:
            why = f"{type(error).__name__} {error}"
            wait_s: float | None = float(2**attempt)
            if isinstance(error, httpx.HTTPStatusError):
                wait_s = _wait_s(error.response, attempt)
            if wait_s is None:
                break
            time.sleep(wait_s)
    raise UserError(f"{url[:200]} cannot be had: {why[:200]}.")


def _fetch(url: str, max_bytes: int, headers: dict[str, str] | None) -> bytes:
    content = bytearray()
    with httpx.stream(
        "GET", url, timeout=TIMEOUT_S, follow_redirects=True, headers=headers
    ) as answer:
        if not answer.is_success:
            answer.read()
        answer.raise_for_status()
        for part in answer.iter_bytes():
            content += part
            if len(content) > max_bytes:
                raise UserError(f"{url[:200]} is larger than {max_bytes >> 20} MiB.")
    return bytes(content)


def _wait_s(answer: httpx.Response, attempt: int) -> float | None:
    """How long to wait before the next try; None where trying again changes nothing."""
    if answer.status_code >= 500:
        return float(2**attempt)
    limited = answer.status_code == 429 or "rate limit" in answer.text.lower()
    if answer.status_code in (403, 429) and limited:
        asked = answer.headers.get("retry-after", "")
        return float(asked) if asked.isdecimal() else 60.0
    return None


def _message(answer: httpx.Response) -> str:
    try:
        said = answer.json()
        details = "; ".join(str(one.get("message", "")) for one in said.get("errors", []))
        return f"{said['message']} {details}".strip()
    except (ValueError, KeyError, AttributeError):
        return answer.text[:200]


def _final(error: Rejected) -> UserError:
    remedy = REMEDIES.get(error.status, "see its message")
    return UserError(f"{error}; {remedy}.")


def _pull(answer: dict[str, Any]) -> PullRequest:
    return PullRequest(
        answer["number"],
        answer["html_url"],
        answer["head"]["sha"],
        answer["base"]["sha"],
        into=answer["base"]["ref"],
        default=answer["base"].get("repo", {}).get("default_branch", ""),
        labels=tuple(label["name"] for label in answer["labels"]),
    )
