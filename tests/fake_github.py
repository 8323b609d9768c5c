"""A fake of the part of GitHub's REST API that kvci uses, with its state in memory.

Each request's body and each field of each answer is checked against GitHub's published schema: the
models of githubkit-schemas are generated from it.
"""

import json
import re
import subprocess
import threading
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from githubkit_schemas.latest import models as schema
from pydantic import BaseModel, TypeAdapter, ValidationError

from tests.answers import Quiet, answer, listening

Json = dict[str, Any]


@dataclass
class Fake:
    """The state of one repository."""

    url: str = ""
    web: str = "https://github.com"
    origin: Path | None = None
    """The bare repository whose commits the fake shows."""
    roles: Json = field(default_factory=lambda: {"owner": "admin"})
    """User -> permission; other users may not even read."""
    labels: list[str] = field(default_factory=list)
    """The labels of every pull request."""
    statuses: list[Json] = field(default_factory=list)
    comments: list[Json] = field(default_factory=list)
    artifacts: list[Json] = field(default_factory=list)
    zips: dict[int, bytes] = field(default_factory=dict)
    """Artifact number -> content."""
    runs: list[tuple[str, str, list[Json]]] = field(default_factory=list)
    """The runs of benchmark.yml: when each was made, its status, its jobs."""
    known_runs: dict[int, str] = field(default_factory=dict)
    """Run number of any workflow -> status; an empty status means that the run does not exist."""
    jobs: dict[int, list[Json]] = field(default_factory=dict)
    """Run number of any workflow -> jobs, for runs that are not in `runs`."""
    of_repository: int = 1
    """The repository from which workflow runs are; 1 is this repository, and others are forks."""
    title: str = "benchmark one on the experiment"
    """The title of each of `runs`."""
    actor: str = "github-actions[bot]"
    pulls: list[Json] = field(default_factory=list)
    releases: dict[str, Json] = field(default_factory=dict)
    assets: dict[str, bytes] = field(default_factory=dict)
    dispatched: list[Json] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    storage_tokens: set[str] = field(default_factory=set)
    """The tokens that the storage host was sent."""
    broken_downloads: int = 0
    """So many of the next downloads break off in the middle."""
    refuse: dict[str, list[tuple[int, Json, dict[str, str]]]] = field(default_factory=dict)
    """Method and path -> answers to give first."""
    wrong: list[str] = field(default_factory=list)
    """What does not fit the schema."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def handle(self, method: str, path: str, query: Json, body: bytes) -> tuple[int, Any]:
        if refused := self.refuse.get(f"{method} {path}"):
            status, value, _ = refused.pop(0)
            return status, value
        if method == "GET" and path == "/pulls":
            head, state = query["head"], query["state"]
            some = [one for one in self.pulls if one["head"]["label"] == head]
            some = [one for one in some if one["state"] == state]
            return 200, [self.fits(schema.PullRequestSimple, one) for one in some]
        if method == "POST" and path == "/pulls":
            asked = self.body(schema.ReposOwnerRepoPullsPostBody, body)
            if any(one["head"]["ref"] == asked["head"] for one in self.pulls):
                why = f"A pull request already exists for owner:{asked['head']}."
                problem = {"resource": "PullRequest", "code": "custom", "message": why}
                return 422, {"message": "Validation Failed", "errors": [problem]}
            self.pulls.append(self.pull(asked))
            return 201, self.fits(schema.PullRequest, self.pulls[-1])
        if found := re.fullmatch(r"/pulls/(\d+)", path):
            one = self.pulls[int(found[1]) - 1]
            one |= {"labels": [{"name": name} for name in self.labels]}
            if self.origin:
                refs = {"head": one["head"]["ref"], "base": "main"}
                one |= {side: one[side] | {"sha": self.commit(ref)} for side, ref in refs.items()}
            if method == "PATCH":
                one |= self.body(schema.ReposOwnerRepoPullsPullNumberPatchBody, body)
            return 200, self.fits(schema.PullRequest, one)
        if method == "GET" and path.startswith("/releases/tags/"):
            release = self.releases.get(path.rpartition("/")[2])
            missing = (404, {"message": "Not Found"})
            return (200, self.fits(schema.Release, release)) if release else missing
        if method == "POST" and path == "/releases":
            asked = self.body(schema.ReposOwnerRepoReleasesPostBody, body)
            if asked["tag_name"] in self.releases:
                return 422, {"message": "Validation Failed", "errors": [{"code": "already_exists"}]}
            upload = f"{self.url}/upload/{asked['tag_name']}{{?name,label}}"
            made = {"tag_name": asked["tag_name"], "upload_url": upload, "assets": []}
            self.releases[asked["tag_name"]] = made
            return 201, self.fits(schema.Release, made)
        if method == "POST" and path.startswith("/upload/"):
            tag, name = path.rpartition("/")[2], query["name"]
            assets = self.releases[tag]["assets"]
            if query["content-type"] not in ("application/gzip",):
                return 422, {"message": "Invalid Content-Type"}
            if any(one["name"] == name for one in assets):
                return 422, {"message": "Validation Failed", "errors": [{"code": "already_exists"}]}
            self.assets[name] = body
            url = f"{self.web}/owner/name/releases/download/{tag}/{name}"
            asset = {"id": len(self.assets), "name": name, "browser_download_url": url}
            asset |= {"state": "uploaded", "size": len(body)}
            assets.append(asset)
            return 201, self.fits(schema.ReleaseAsset, asset)
        if method == "DELETE" and (found := re.fullmatch(r"/releases/assets/(\d+)", path)):
            for release in self.releases.values():
                some = [one for one in release["assets"] if one["id"] != int(found[1])]
                release["assets"] = some
            return 204, None
        if method == "GET" and (found := re.fullmatch(r"/actions/runs/(\d+)", path)):
            state = self.known_runs.get(int(found[1]), "completed")
            if not state:
                return 404, {"message": "Not Found"}
            made = {"id": int(found[1]), "created_at": "2026-01-02T03:04:05Z", "status": state}
            made |= {"updated_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}
            made |= {"repository": {"id": 1}, "head_repository": {"id": self.of_repository}}
            return 200, self.fits(schema.WorkflowRun, made)
        if method == "POST" and path.endswith("/dispatches"):
            kind = schema.ReposOwnerRepoActionsWorkflowsWorkflowIdDispatchesPostBody
            self.dispatched.append({"path": path} | self.body(kind, body))
            return 204, None
        return self.handle_more(method, path, query, body)

    def handle_more(self, method: str, path: str, query: Json, body: bytes) -> tuple[int, Any]:
        if found := re.fullmatch(r"/pulls/(\d+)/files", path):
            names = self.git("diff", "--name-only", "main", self.head(int(found[1]))).split()
            start = 100 * (int(query["page"]) - 1)
            return 200, [self.fits(schema.DiffEntry, {"filename": n}) for n in names[start:][:100]]
        if path == "/actions/artifacts":
            some = [one for one in self.artifacts if query.get("name") in (None, one["name"])]
            start = 100 * (int(query.get("page", 1)) - 1)
            listed = {"total_count": len(some), "artifacts": some[start:][:100]}
            return 200, self.fits(schema.ReposOwnerRepoActionsArtifactsGetResponse200, listed)
        if path == "/actions/workflows/benchmark.yml/runs":
            runs = [
                {"id": n, "created_at": at, "status": status, "display_title": self.title}
                | {"actor": {"login": self.actor}}
                for n, (at, status, _) in enumerate(self.runs)
            ]
            kind = schema.ReposOwnerRepoActionsWorkflowsWorkflowIdRunsGetResponse200
            return 200, self.fits(kind, {"total_count": len(runs), "workflow_runs": runs})
        if found := re.fullmatch(r"/collaborators/([\w\[\]-]+)/permission", path):
            if found[1] not in self.roles:
                return 404, {"message": "Not Found"}
            role = {"permission": self.roles[found[1]]}
            return 200, self.fits(schema.RepositoryCollaboratorPermission, role)
        if found := re.fullmatch(r"/actions/runs/(\d+)/jobs", path):
            number = int(found[1])
            known = self.runs[number][2] if number < len(self.runs) else []
            some = self.jobs.get(number, known)
            start = 100 * (int(query.get("page", 1)) - 1)
            jobs = {"total_count": len(some), "jobs": some[start:][:100]}
            listing = schema.ReposOwnerRepoActionsRunsRunIdJobsGetResponse200
            return 200, self.fits(listing, jobs)
        if found := re.fullmatch(r"/compare/(\w+)\.\.\.(\w+)", path):
            sha = self.git("merge-base", *found.groups())
            return 200, self.fits(schema.CommitComparison, {"merge_base_commit": {"sha": sha}})
        if found := re.fullmatch(r"/git/ref/heads/([\w/]+)", path):
            ref = f"refs/heads/{found[1]}"
            if ref not in self.git("for-each-ref", "--format=%(refname)").split():
                return 404, {"message": "Not Found"}
            commit = {"type": "commit", "sha": self.commit(ref)}
            return 200, self.fits(schema.GitRef, {"ref": ref, "object": commit})
        if found := re.fullmatch(r"/git/trees/([0-9a-f]{40})", path):
            lines = self.git("ls-tree", "-r", found[1]).splitlines()
            some = [dict(zip(("mode", "type", "sha", "path"), one.split(), strict=True))
                    for one in lines]  # fmt: skip
            return 200, self.fits(schema.GitTree, {"tree": some, "truncated": False})
        if found := re.fullmatch(r"/statuses/(\w+)", path):
            asked = self.body(schema.ReposOwnerRepoStatusesShaPostBody, body)
            self.statuses.append({"sha": found[1]} | asked)
            return 201, self.fits(schema.Status, {"state": asked["state"]})
        if re.fullmatch(r"/issues/\d+/comments", path):
            if method == "GET":
                return 200, [self.fits(schema.IssueComment, one) for one in self.comments]
            asked = self.body(schema.ReposOwnerRepoIssuesIssueNumberCommentsPostBody, body)
            newest = max((one["id"] for one in self.comments), default=0)
            made = {"id": newest + 1, "user": {"login": "github-actions[bot]"}} | asked
            self.comments.append(made)
            return 201, self.fits(schema.IssueComment, made)
        if found := re.fullmatch(r"/issues/comments/(\d+)", path):
            comment = next((one for one in self.comments if one["id"] == int(found[1])), None)
            if not comment:
                return 404, {"message": "Not Found"}
            if method == "DELETE":
                self.comments.remove(comment)
                return 204, None
            comment |= self.body(schema.ReposOwnerRepoIssuesCommentsCommentIdPatchBody, body)
            return 200, self.fits(schema.IssueComment, comment)
        return 404, {"message": "Not Found"}

    def git(self, *words: str) -> str:
        assert self.origin
        done = subprocess.run(
            ["git", *words], cwd=self.origin, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def blob(self, sha: str) -> bytes:
        words = ["git", "cat-file", "blob", sha]
        return subprocess.run(words, cwd=self.origin, capture_output=True, check=True).stdout

    def commit(self, ref: str) -> str:
        return self.git("rev-parse", ref)

    def head(self, number: int) -> str:
        return self.commit(self.pulls[number - 1]["head"]["ref"])

    def pull(self, asked: Json) -> Json:
        number = len(self.pulls) + 1
        head = {"ref": asked["head"], "label": f"owner:{asked['head']}", "sha": "1" * 40}
        base = {"ref": asked["base"], "sha": "2" * 40, "repo": {"default_branch": "main"}}
        more = {"base": base, "labels": []}
        url = f"https://github.com/owner/name/pull/{number}"
        text = {"title": asked["title"], "body": asked["body"]}
        return {"number": number, "state": "open", "html_url": url, "head": head} | more | text

    def body(self, kind: type[BaseModel], body: bytes) -> Json:
        asked: Json = json.loads(body)
        try:
            kind.model_validate(asked)
        except ValidationError as error:
            self.wrong.append(str(error))
        return self.fits(kind, asked)

    def fits(self, kind: type[BaseModel], value: Json) -> Json:
        self.wrong += [f"{kind.__name__}.{problem}" for problem in problems(kind, value)]
        return value


def problems(kind: Any, value: Any) -> Iterator[str]:
    """Yield where a value, which may be only a part of an answer, does not fit its kind."""
    if isinstance(kind, type) and issubclass(kind, BaseModel) and isinstance(value, dict):
        fields = {one.alias or name: one for name, one in kind.model_fields.items()}
        for name, part in value.items():
            if name not in fields and kind.model_config.get("extra") == "allow":
                continue
            if name not in fields:
                yield f"{name} is not in the schema"
            else:
                annotation = fields[name].annotation
                yield from (f"{name}.{why}" for why in problems(annotation, part))
        return
    choices = [one for one in typing.get_args(kind) if typing.get_origin(kind) is not list]
    if isinstance(value, dict) and choices:
        if all(list(problems(one, value)) for one in choices):
            yield f"{value} fits none of {choices}"
        return
    if isinstance(value, list) and typing.get_origin(kind) is list:
        for part in value:
            yield from problems(typing.get_args(kind)[0], part)
        return
    if isinstance(value, list) and choices:
        if all(list(problems(one, value)) for one in choices):
            yield f"{value} fits none of {choices}"
        return
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        yield str(error)


@contextmanager
def serving() -> Iterator[Fake]:
    fake = Fake()

    class Handler(Quiet):
        def do_GET(self) -> None:
            address = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(address.query).items()}
            query["content-type"] = self.headers.get("content-type", "")
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            path = address.path.removeprefix("/repos/owner/name")
            if path.startswith("/storage/"):
                self.store(path)
                return
            if place := self.storage_path(path):
                host = fake.url.replace("127.0.0.1", "localhost")
                answer(self, 302, b"", {"Location": f"{host}/storage/{place}"})
                return
            if blob := re.fullmatch(r"/git/blobs/(\w+)", path):
                assert self.headers.get("accept") == "application/vnd.github.raw+json"
                fake.calls.append(f"{self.command} {path}")
                answer(self, 200, fake.blob(blob[1]))
                return
            with fake.lock:
                fake.calls.append(f"{self.command} {path}")
                fake.tokens.add(self.headers.get("authorization", ""))
                refused = fake.refuse.get(f"{self.command} {path}")
                headers = refused[0][2] if refused else None
                status, value = fake.handle(self.command, path, query, body)
            answer(self, status, b"" if value is None else json.dumps(value).encode(), headers)

        do_POST = do_PATCH = do_DELETE = do_GET

        def storage_path(self, path: str) -> str:
            """Where a download is redirected to; empty for any other request."""
            if zipped := re.fullmatch(r"/actions/artifacts/(\d+)/zip", path):
                return f"zips/{zipped[1]}"
            asset = re.fullmatch(r"/releases/assets/(\d+)", path)
            kind, token = (self.headers.get(h, "") for h in ("accept", "authorization"))
            if not asset or self.command != "GET" or kind != "application/octet-stream":
                return ""
            known = [one for release in fake.releases.values() for one in release["assets"]]
            name = next(one["name"] for one in known if one["id"] == int(asset[1]))
            return f"assets/{name}" if token.startswith("Bearer ") else ""

        def store(self, path: str) -> None:
            """Answer as the storage host."""
            fake.storage_tokens.add(self.headers.get("authorization", ""))
            _, _, kind, name = path.split("/")
            content = fake.zips.get(int(name)) if kind == "zips" else fake.assets.get(name)
            cut, fake.broken_downloads = (
                fake.broken_downloads > 0,
                max(fake.broken_downloads - 1, 0),
            )
            answer(self, 404 if content is None else 200, content or b"", cut=cut)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_port}"
    with listening(server):
        yield fake
    assert not fake.wrong, "\n".join(fake.wrong)
