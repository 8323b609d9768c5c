"""The client of GitHub. The tests use a fake, which obeys the schema that GitHub publishes."""

from typing import Any

import pytest

from kvci.errors import UserError
from kvci.github import GitHub
from kvci.text import markdown
from tests.fake_github import Fake
from tests.on_github import active

DENIED = {"message": "GitHub Actions is not permitted to create or approve pull requests."}


@pytest.fixture
def github(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> GitHub:
    monkeypatch.setattr("kvci.github.rest.time.sleep", lambda _: None)
    return GitHub("owner/name", "t0ken", fake.url)


def test_open_pull_request_is_updated_not_doubled(fake: Fake, github: GitHub) -> None:
    first = github.pull_request("kvci/results", "main", "one", "body")
    second = github.pull_request("kvci/results", "main", "two", "other")
    assert first == second and len(fake.pulls) == 1
    assert (fake.pulls[0]["title"], fake.pulls[0]["body"]) == ("two", "other")
    assert fake.tokens == {"Bearer t0ken"}


def test_overtaken_publisher_updates_the_pull_request(fake: Fake, github: GitHub) -> None:
    github.pull_request("kvci/results", "main", "one", "body")
    fake.refuse["GET /pulls"] = [(200, [], {})]  # type: ignore[list-item]
    github.pull_request("kvci/results", "main", "two", "body")
    assert len(fake.pulls) == 1 and fake.pulls[0]["title"] == "two"


def test_evidence_is_attached_once(fake: Fake, github: GitHub) -> None:
    url = github.attach("kvci-r", "main", "r.1.tar.gz", b"one")
    assert github.attach("kvci-r", "main", "r.1.tar.gz", b"one") == url
    assert fake.assets == {"r.1.tar.gz": b"one"}
    fake.refuse["GET /releases/tags/kvci-r"] = [(404, {"message": "Not Found"}, {})]
    github.attach("kvci-r", "main", "r.2.tar.gz", b"two")
    assert set(fake.assets) == {"r.1.tar.gz", "r.2.tar.gz"} and len(fake.releases) == 1
    assert url.endswith("/owner/name/releases/download/kvci-r/r.1.tar.gz")


@pytest.mark.parametrize(
    ("call", "answer", "says"),
    [
        ("POST /pulls", (403, DENIED, {}), "Allow GitHub Actions to create and approve"),
        ("POST /pulls", (403, {"message": "Resource not accessible"}, {}), "pull-requests: write"),
        ("GET /pulls", (401, {"message": "Bad credentials"}, {}), "GITHUB_TOKEN to a valid token"),
        ("GET /pulls", (404, {"message": "Not Found"}, {}), "check the repository's name"),
        ("POST /pulls", (422, {"message": "Validation Failed"}, {}), "Validation Failed"),
    ],
)
def test_rejection_names_its_remedy(
    fake: Fake, github: GitHub, call: str, answer: Any, says: str
) -> None:
    fake.refuse[call] = [answer]
    with pytest.raises(UserError, match=says):
        github.pull_request("kvci/results", "main", "one", "body")
    assert not fake.pulls


def test_temporary_failures_are_retried(fake: Fake, github: GitHub) -> None:
    limit = {"message": "You have exceeded a secondary rate limit"}
    fake.refuse["GET /pulls"] = [
        (502, {"message": "Bad Gateway"}, {}),
        (403, limit, {"Retry-After": "3"}),
        (429, limit, {}),
    ]
    github.pull_request("kvci/results", "main", "one", "body")
    assert len(fake.pulls) == 1 and fake.calls.count("GET /pulls") == 4
    fake.refuse["GET /pulls"] = [(503, {"message": "down"}, {})] * 5
    with pytest.raises(UserError, match="does not answer"):
        github.pull_request("kvci/results", "main", "two", "body")


def test_missing_workflow_is_an_error(fake: Fake, github: GitHub) -> None:
    fake.refuse["POST /actions/workflows/review.yml/dispatches"] = [(404, {"message": "no"}, {})]
    with pytest.raises(UserError, match=r"no workflow review\.yml on the branch main"):
        github.dispatch("review.yml", "main", {"number": "1"})


def test_dispatch_starts_a_workflow(fake: Fake, github: GitHub) -> None:
    github.dispatch("review.yml", "main", {"number": "7"})
    assert fake.dispatched == [
        {
            "path": "/actions/workflows/review.yml/dispatches",
            "ref": "main",
            "inputs": {"number": "7"},
        }
    ]


def test_all_jobs_of_a_run_are_read(fake: Fake, github: GitHub) -> None:
    """A workflow run may have 256 jobs, and GitHub lists a hundred of them per page."""
    job = {"id": 1, "runner_id": 7, "status": "completed", "conclusion": "success"}
    jobs = [job | {"name": f"run {number}/250"} for number in range(1, 251)]
    jobs[-1] |= {"runner_id": None, "status": "queued", "conclusion": None}
    fake.runs = [("2026-11-21T20:23:00Z", "in_progress", jobs)]
    (run,) = github.runs("benchmark.yml", "run")
    assert (run.jobs, run.untaken, run.state) == (250, 1, "waits")


def test_incomplete_upload_is_replaced(fake: Fake, github: GitHub) -> None:
    github.attach("kvci-r", "main", "r.1.tar.gz", b"one")
    (asset,) = fake.releases["kvci-r"]["assets"]
    asset |= {"state": "open", "size": 0}
    url = github.attach("kvci-r", "main", "r.1.tar.gz", b"one")
    (asset,) = fake.releases["kvci-r"]["assets"]
    assert (asset["state"], asset["size"], asset["browser_download_url"]) == ("uploaded", 3, url)


def test_final_rejection_is_not_retried(fake: Fake, github: GitHub) -> None:
    fake.refuse["POST /upload/kvci-r"] = [(422, {"message": "Validation Failed"}, {})] * 9
    with pytest.raises(UserError, match="Validation Failed"):
        github.attach("kvci-r", "main", "r.1.tar.gz", b"one")
    assert len(fake.calls) < 9


def test_only_this_repositorys_evidence_is_downloaded(fake: Fake, github: GitHub) -> None:
    url = github.attach("kvci-r", "main", "r.1.tar.gz", b"one")
    assert github.download_asset(url, "https://github.com", 9) == b"one"
    ours = "https://github.com/owner/name/releases/download"
    for wrong, says in (
        (f"{ours}/%2e%2e/%2e%2e/x/y/releases/download/t/x", "is not in a release"),
        (f"{ours}/../x", "is not in a release"),
        ("https://github.com/owner/other/releases/download/t/x", "is not in a release"),
        (f"{ours}/none/x", "does not exist"),
        (f"{ours}/kvci-r/x", "has no file"),
    ):
        with pytest.raises(UserError, match=says):
            github.download_asset(wrong, "https://github.com", 9)
    with pytest.raises(UserError, match="is larger than"):
        github.download_asset(url, "https://github.com", 2)


def test_storage_gets_no_token(fake: Fake, github: GitHub) -> None:
    url = github.attach("kvci-r", "main", "r.1.tar.gz", b"one")
    assert github.download_asset(url, "https://github.com", 9) == b"one"
    fake.zips[7] = b"zip"
    assert github.download_artifact(7, 9) == b"zip"
    assert fake.storage_tokens == {""}


def test_broken_download_is_retried(fake: Fake, github: GitHub) -> None:
    fake.zips[7] = b"content"
    fake.broken_downloads = 4
    assert github.download_artifact(7, 9) == b"content"
    fake.broken_downloads = 5
    with pytest.raises(UserError, match="does not answer"):
        github.download_artifact(7, 9)


def bodies(fake: Fake) -> list[str]:
    return [one["body"] for one in fake.comments]


@pytest.mark.parametrize("padding", range(12))
def test_cut_comment_splits_no_code(padding: int, fake: Fake, github: GitHub) -> None:
    """Half a code span would be text, and would mention its user."""
    line = f"- {markdown('<b> @octocat and so on')}\n"
    github.comment(1, "x", "x" * padding + "\n" + line * 3000)
    body = fake.comments[0]["body"]
    assert body.endswith("Cut here.") and len(body) > 50_000
    assert not active(body, "style bullet")


def test_parallel_jobs_leave_one_comment(fake: Fake, github: GitHub) -> None:
    """Both jobs look for a comment before one writes. The older comment gets the last text."""
    github.comment(1, "mark", "mark, the faster")
    fake.refuse["GET /issues/1/comments"] = [(200, [], {})]  # type: ignore[list-item]
    github.comment(1, "mark", "mark, the slower")
    assert bodies(fake) == ["mark, the slower"] and fake.comments[0]["id"] == 1


def test_duplicate_comments_are_deleted(fake: Fake, github: GitHub) -> None:
    for text in ("mark, one", "mark, two", "mark, three", "another's"):
        who = {"login": "github-actions[bot]" if text != "another's" else "jane"}
        fake.comments.append({"id": len(fake.comments) + 1, "user": who, "body": text})
    assert github.existing_comment(1, "mark") == "mark, one"
    fake.refuse["DELETE /issues/comments/2"] = [(404, {"message": "Not Found"}, {})]
    github.comment(1, "mark", "mark, now")
    assert bodies(fake) == ["mark, now", "mark, two", "another's"], "another job deletes that one"
    github.comment(1, "mark", "mark, later")
    assert bodies(fake) == ["mark, later", "another's"]


def test_workflow_run_shows_what_was_asked(fake: Fake, github: GitHub) -> None:
    """The author of a fork may name its jobs, so its workflow runs show nothing."""
    digest = "0123456789abcdef" * 2
    names = ("plan", f"benchmark / run 1/2 of {digest}", "run 2/2 of nothing")
    fake.jobs[7] = [{"name": name, "conclusion": "success"} for name in names]
    ran = github.ran(7)
    assert ran and ran.asked == {digest} and ran.created < ran.updated
    fake.known_runs = {7: "in_progress", 8: ""}
    assert github.ran(8) is None and (ran := github.ran(7)) and ran.updated > ran.created
    fake.of_repository = 2
    assert github.ran(7) is None
