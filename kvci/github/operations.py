"""The operations that kvci needs on a repository at GitHub."""

import os
import re
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice

from kvci.errors import UserError
from kvci.github.answers import BOT, Artifact, PullRequest, Ran, WorkflowRun
from kvci.github.rest import API, Invalid, Json, NotFound, Rejected, RestApi

FILES = ("100644", "100755")
"""The modes of plain files in git's trees. A link has the mode 120000, which is not one of them."""
MAX_ARTIFACTS = 1000
LAST_RUNS = 30
MAX_COMMENT = 60_000
"""The maximum number of characters that kvci writes; GitHub accepts 65,536."""
ASKED = re.compile(r" of ([0-9a-f]{32})$")
"""The end of the name of a job that runs trials: the digest of what was asked."""
MAY_NOT_OPEN = "not permitted to create or approve pull requests"
ALLOW = (
    'turn on "Allow GitHub Actions to create and approve pull requests" in the repository\'s '
    "settings, under Actions, General, or use the token of a GitHub App"
)


def web() -> str:
    """Return the address of GitHub's pages. In a job, GitHub sets it in the environment."""
    return os.environ.get("GITHUB_SERVER_URL", "https://github.com")


def run_url(repository: str) -> str:
    """Return the URL of this job's workflow run; empty outside a workflow."""
    number = os.environ.get("GITHUB_RUN_ID")
    return f"{web()}/{repository}/actions/runs/{number}" if number else ""


class GitHub:
    """A repository at GitHub, named `owner/name`.

    Every method raises UserError if GitHub rejects the request or does not answer.
    """

    def __init__(self, repository: str, token: str, api: str = API) -> None:
        self.repository, self.token = repository, token
        self._api = RestApi(repository, token, api)

    def pull_request(self, branch: str, base: str, title: str, body: str) -> PullRequest:
        """Update the open pull request of this branch, or open one."""
        text = {"title": title, "body": body}
        found = self._open(branch, base)
        if not found:
            try:
                made = self._api.post("/pulls", text | {"head": branch, "base": base})
                return PullRequest.read(made)
            except Invalid:
                found = self._open(branch, base)
                if not found:  # if it is found, another publisher opened it first
                    raise
            except Rejected as error:
                if MAY_NOT_OPEN in error.message:
                    why = f"GitHub does not let jobs open pull requests here; {ALLOW}."
                    raise UserError(why) from None
                raise
        return PullRequest.read(self._api.patch(f"/pulls/{found['number']}", text))

    def attach(self, tag: str, target: str, name: str, content: bytes) -> str:
        """Upload a file to the release with this tag, and return the file's URL.

        kvci makes the release if it does not exist. The file's name contains a hash of its content.
        So if the release already has a complete file with this name, nothing is uploaded.
        """
        release = self._release(tag, target)
        if url := _complete(release, name, len(content)):
            return url
        try:
            return self._upload(release, name, content)
        except Invalid:  # another publisher uploaded the file, or a part of it
            release = self._release(tag, target)
        if url := _complete(release, name, len(content)):
            return url
        for asset in release["assets"]:
            if asset["name"] == name:
                self._api.delete(f"/releases/assets/{asset['id']}")
        return self._upload(release, name, content)

    def download_asset(self, url: str, web: str, max_bytes: int) -> bytes:
        """Return a file of this repository's releases.

        `web` is the address of GitHub's pages. Raises UserError also if the URL is not in a release
        of this repository, or if the file is larger than `max_bytes`.
        """
        ours = re.escape(f"{web}/{self.repository}/releases/download/")
        found = re.fullmatch(rf"{ours}([\w-][\w.-]*)/([\w-][\w.-]*)", url, re.ASCII)
        if not found:
            raise UserError(
                f"{url[:200]} is not in a release of this repository; publish its run here."
            )
        tag, name = found.groups()
        try:
            assets = self._api.get(f"/releases/tags/{tag}")["assets"]
        except NotFound:
            raise UserError(f"The release {tag} does not exist; publish its run again.") from None
        number = next((asset["id"] for asset in assets if asset["name"] == name), None)
        if number is None:
            raise UserError(f"The release {tag} has no file {name}; publish its run again.")
        path = f"/releases/assets/{number}"
        return self._api.download(path, max_bytes, accept="application/octet-stream")

    def dispatch(self, workflow: str, branch: str, inputs: dict[str, str]) -> None:
        """Start a workflow of this repository."""
        path = f"/actions/workflows/{workflow}/dispatches"
        try:
            self._api.post(path, {"ref": branch, "inputs": inputs})
        except NotFound:
            raise UserError(
                f"There is no workflow {workflow} on the branch {branch}, or the token may not "
                "start it; copy the workflow to the branch, and give the job `actions: write`."
            ) from None

    def may_write(self, user: str) -> bool:
        """True if the user may push. For the role `maintain`, GitHub reports `write`."""
        try:
            found = self._api.get(f"/collaborators/{user}/permission")
        except NotFound:
            return False
        return found["permission"] in ("admin", "write")

    def pull(self, number: int) -> PullRequest:
        return PullRequest.read(self._api.get(f"/pulls/{number}"))

    def changed(self, number: int) -> list[str]:
        """Return the paths that a pull request changes, and the old paths of moved files."""
        found = list(self._api.pages(f"/pulls/{number}/files"))
        paths = [one["filename"] for one in found]
        return paths + [one["previous_filename"] for one in found if "previous_filename" in one]

    def merge_base(self, base: str, head: str) -> str:
        """Return the last commit that the histories of `base` and `head` have in common."""
        found = self._api.get(f"/compare/{base}...{head}", per_page=1)
        return str(found["merge_base_commit"]["sha"])

    def branch(self, name: str) -> str:
        """Return the branch's commit; empty if the branch does not exist."""
        try:
            return str(self._api.get(f"/git/ref/heads/{name}")["object"]["sha"])
        except NotFound:
            return ""

    def tree(self, commit: str) -> dict[str, str]:
        """Return path -> blob's hash, for a commit; links and submodules have an empty hash."""
        found = self._api.get(f"/git/trees/{commit}", recursive="1")
        if found["truncated"]:
            raise UserError(f"{self.repository} has too many files for GitHub to list them.")
        return {
            one["path"]: one["sha"] if one["mode"] in FILES else ""
            for one in found["tree"]
            if one["type"] != "tree"
        }

    def blob(self, sha: str, max_bytes: int) -> bytes:
        """Return the content of a Git blob. Raises TooLarge if it exceeds `max_bytes`."""
        raw = "application/vnd.github.raw+json"
        return self._api.download(f"/git/blobs/{sha}", max_bytes, accept=raw)

    def set_status(self, commit: str, state: str, context: str, line: str, url: str) -> None:
        """Set the status that GitHub shows next to a commit: pending, success or failure."""
        status = {"state": state, "context": context, "description": line[:140]}
        link = {"target_url": url} if url else {}
        self._api.post(f"/statuses/{commit}", status | link)

    def comment(self, number: int, mark: str, text: str) -> None:
        """Write kvci's comment, which starts with `mark`, or replace its text if it exists.

        If parallel jobs made several such comments, the oldest comment stays, and the other ones
        are deleted.
        """
        if len(text) > MAX_COMMENT:  # within a line, the cut could split code, and make it active
            text = text[:MAX_COMMENT].rpartition("\n")[0] + "\n\nCut here."
        body = {"body": text}
        found = self._comments(number, mark)
        if not found:
            made = self._api.post(f"/issues/{number}/comments", body)
            found = self._comments(number, mark) or [made]
            if found[0]["id"] == made["id"]:
                return
        self._api.patch(f"/issues/comments/{found[0]['id']}", body)
        for double in found[1:]:
            with suppress(NotFound):  # another job deleted the comment
                self._api.delete(f"/issues/comments/{double['id']}")

    def existing_comment(self, number: int, mark: str) -> str:
        """Return the text of kvci's comment that starts with `mark`; empty if there is none."""
        found = self._comments(number, mark)
        return str(found[0]["body"]) if found else ""

    def artifacts(self, name: str = "") -> list[Artifact]:
        """Return the newest thousand artifacts; with `name`, only artifacts of this name.

        Expired artifacts are left out. Artifacts of deleted workflow runs are left out too, because
        their origin is unknown.
        """
        found = self._api.pages(
            "/actions/artifacts", "artifacts", **({"name": name} if name else {})
        )
        return [
            Artifact.read(one)
            for one in islice(found, MAX_ARTIFACTS)
            if one["workflow_run"] and not one["expired"]
        ]

    def download_artifact(self, number: int, max_bytes: int) -> bytes:
        """Return an artifact as a zip file. Raises UserError also if it exceeds `max_bytes`."""
        return self._api.download(f"/actions/artifacts/{number}/zip", max_bytes)

    def runs(self, workflow: str, job: str) -> list[WorkflowRun]:
        """Return the last workflow runs of a workflow, the newest first.

        Their state depends on the jobs whose name is `job` with a suffix.
        """
        path = f"/actions/workflows/{workflow}/runs"
        found = self._api.get(path, per_page=LAST_RUNS)["workflow_runs"]
        return [WorkflowRun.read(one, self._jobs(one["id"], job)) for one in found]

    def is_running(self, number: int) -> bool:
        """True if a workflow run exists and has not ended."""
        try:
            return str(self._api.get(f"/actions/runs/{number}")["status"]) != "completed"
        except NotFound:
            return False

    def run_created(self, number: int) -> str:
        """Return the UTC time at which a workflow run was created; all attempts have the same."""
        return str(self._api.get(f"/actions/runs/{number}")["created_at"])

    def ran(self, number: int) -> Ran | None:
        """Return what GitHub knows about a workflow run of this repository.

        None if there is none, or if a fork has it: the author of a fork may name its jobs.
        """
        try:
            run = self._api.get(f"/actions/runs/{number}")
        except NotFound:
            return None
        if (run["head_repository"] or {}).get("id") != run["repository"]["id"]:
            return None
        ended = run["status"] == "completed"
        updated = run["updated_at"] if ended else f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        names = [ASKED.search(one["name"]) for one in self._jobs(number, "run")]
        return Ran(run["created_at"], updated, frozenset(one[1] for one in names if one))

    def _open(self, branch: str, base: str) -> Json | None:
        """Return the branch's open pull request; None if there is none."""
        head = f"{self.repository.partition('/')[0]}:{branch}"
        found = self._api.get("/pulls", head=head, base=base, state="open")
        return found[0] if found else None

    def _release(self, tag: str, target: str) -> Json:
        """Return the release with this tag. Make the release first if it does not exist."""
        with suppress(NotFound):
            return dict(self._api.get(f"/releases/tags/{tag}"))
        text = {"tag_name": tag, "target_commitish": target, "name": tag, "make_latest": "false"}
        with suppress(Invalid):  # another publisher made it first
            return dict(self._api.post("/releases", text | {"prerelease": True}))
        return dict(self._api.get(f"/releases/tags/{tag}"))

    def _upload(self, release: Json, name: str, content: bytes) -> str:
        made = self._api.upload(release["upload_url"].partition("{")[0], name, content)
        return str(made["browser_download_url"])

    def _comments(self, number: int, mark: str) -> list[Json]:
        """Return kvci's comments that start with `mark`, the oldest first."""
        found = [
            one
            for one in self._api.pages(f"/issues/{number}/comments")
            if (one["body"] or "").startswith(mark)
            and (one["user"] or {}).get("login") == BOT  # null if the account was deleted
        ]
        return sorted(found, key=lambda one: int(one["id"]))

    def _jobs(self, run: int, name: str) -> list[Json]:
        """Return the jobs of a workflow run that have this name with a suffix.

        Skipped jobs are left out. They were skipped because the plan failed, so they never waited
        for a runner. If another workflow calls this workflow, the name follows the name of the
        calling job and a slash.
        """
        named = re.compile(rf"(^|/ ){re.escape(name)} ")
        return [
            one
            for one in self._api.pages(f"/actions/runs/{run}/jobs", "jobs")
            if named.search(one["name"]) and one["conclusion"] != "skipped"
        ]


def _complete(release: Json, name: str, size: int) -> str:
    """Return the URL of a release's file if its upload is complete; else an empty text."""
    for asset in release["assets"]:
        if asset["name"] == name and asset["state"] == "uploaded" and asset["size"] == size:
            return str(asset["browser_download_url"])
    return ""
