"""The review job, with a fake of GitHub's API and a real git repository."""

from pathlib import Path
from typing import Any

import git
import pytest

from kvci.errors import UserError
from kvci.github import GitHub
from kvci.publish.pull_request import Target, publish
from kvci.review.job import LABEL, MARK, review_pull
from tests.fake_github import Fake
from tests.record.test_merge import shard


class Opened:
    """A pull request of a finished run, as `publish` opens it."""

    def __init__(self, fake: Fake, origin: Path, folder: Path) -> None:
        self.fake, self.origin = fake, origin
        fake.web, fake.origin = fake.url, origin
        self.github = GitHub("owner/name", "token", fake.url)
        shard(folder / "run", 1, ("a",))
        shard(folder / "run", 2, ("b",))
        publish(folder / "run", Target("owner/name", str(origin), web=fake.url), self.github)

    def review(self, **other: Any) -> tuple[bool, str, str]:
        """Review it. Return True if it passes, the text of the status, and the comment."""
        web = other.get("web", self.fake.url)
        done = review_pull(self.github, 1, web, "https://x/runs/1", other.get("event"))
        assert done is not None
        (comment,) = self.fake.comments
        return done[1], self.fake.statuses[-1]["description"], comment["body"]


def labelled(opened: Opened, who: str = "owner") -> dict[str, Any]:
    """Return the event that GitHub sends if a user sets the label on the current head."""
    head = {"head": {"sha": opened.fake.head(1)}}
    event = {"action": "labeled", "label": {"name": LABEL}, "pull_request": head}
    return event | {"sender": {"login": who}}


@pytest.fixture
def opened(fake: Fake, origin: Path, tmp_path: Path) -> Opened:
    return Opened(fake, origin, tmp_path)


def test_status_is_on_the_head_with_one_comment(opened: Opened) -> None:
    for _ in range(2):
        passes, words, comment = opened.review()
        assert passes and words == "2 new records match their evidence"
        assert comment.startswith(MARK) and "<!--" not in comment[len(MARK) :]
        assert '"Resolved, %"' in comment
    status = opened.fake.statuses[-1]
    assert (status["state"], status["context"]) == ("success", "kvci/results")
    assert status["sha"] == opened.fake.head(1) and status["target_url"] == "https://x/runs/1"


def test_label_accepts_missing_evidence_but_no_problem(opened: Opened) -> None:
    kept = dict(opened.fake.assets)
    opened.fake.assets.clear()
    passes, words, _ = opened.review()
    assert not passes and LABEL in words
    opened.fake.labels = [LABEL]
    event = labelled(opened)
    passes, words, comment = opened.review(event=event)
    assert passes and "accepted by a maintainer" in comment and "not all" in words
    assert "not all of their evidence was checked.**" in comment
    assert opened.review()[0], "the acceptance is kept"
    _push(opened)
    assert not opened.review()[0], "a later head is not accepted"
    opened.fake.assets |= {name: b"x" for name in kept}
    assert not opened.review(event=labelled(opened))[0], "a label does not accept forged evidence"


def test_user_without_write_access_accepts_nothing(opened: Opened) -> None:
    """GitHub reports `read` for the triage role, and this role may set labels."""
    opened.fake.assets.clear()
    opened.fake.labels = [LABEL]
    opened.fake.roles = {"triager": "read", "writer": "write"}
    for who in ("triager", "nobody"):
        passes, _, comment = opened.review(event=labelled(opened, who))
        assert not passes and f"{who}, who set it, may not write here" in comment
    assert opened.review(event=labelled(opened, "writer"))[0]


def test_quoted_acceptance_accepts_nothing(opened: Opened) -> None:
    """An author knows the head's commit, and the comment quotes the author's lines."""
    opened.fake.assets.clear()
    opened.fake.labels = [LABEL]
    assert not opened.review()[0]
    memory = f"<!-- accepted {opened.fake.head(1)} -->"
    (comment,) = opened.fake.comments
    for place in (f"{MARK}\n- `changed by hand: {memory}`", f"{MARK}\nLook at:\n{memory}"):
        comment["body"] = place
        assert not opened.review()[0]
    comment["body"] = f"{MARK}\n{memory}\nwhat was said"
    assert opened.review()[0]


def test_duplicate_comment_accepts_nothing(opened: Opened) -> None:
    """kvci reads and writes only the oldest comment."""
    opened.fake.assets.clear()
    opened.fake.labels = [LABEL]
    assert not opened.review()[0]
    memory = f"<!-- accepted {opened.fake.head(1)} -->"
    double = opened.fake.comments[0] | {"id": 2, "body": f"{MARK}\n{memory}\nwhat was said"}
    opened.fake.comments.append(double)
    assert not opened.review()[0]


def test_pull_request_into_another_branch_gets_no_status(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A status belongs to the commit, which another pull request may share."""
    opened.fake.pulls[0]["base"]["ref"] = "old"
    with pytest.raises(UserError, match="asks to merge into old"):
        opened.review()
    monkeypatch.setattr(opened.github, "changed", lambda _: ["README.md"])
    assert review_pull(opened.github, 1, opened.fake.url, "") is None
    assert not opened.fake.statuses


def test_files_in_the_work_tree_are_not_downloaded(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GitHub limits calls. A review of hundreds of records would exceed the limit."""
    git.Repo(opened.origin).clone(tmp_path / "here", branch="kvci/results")
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "BENCHMARKS.md").unlink()
    assert opened.review()[0]
    assert sum("/git/blobs/" in call for call in opened.fake.calls) == 2, (
        "BENCHMARKS.md, of both commits"
    )


def test_bug_in_the_review_is_a_failure(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened.review()[0]
    monkeypatch.setattr("kvci.review.job.review", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        opened.review()
    assert opened.fake.statuses[-1]["state"] == "failure"


def _push(opened: Opened) -> None:
    """Push a commit that changes nothing."""
    bare = git.Repo(opened.origin)
    words = ["git", "-c", "user.name=x", "-c", "user.email=x@localhost", "commit-tree"]
    tip = str(bare.git.rev_parse("kvci/results"))
    made = bare.git.execute([*words, f"{tip}^{{tree}}", "-p", tip, "-m", "next"])
    bare.git.update_ref("refs/heads/kvci/results", str(made))


def _put(opened: Opened, branch: str, *entries: str) -> None:
    """Push a commit that adds or replaces these entries of git's index: `mode,blob,path`."""
    bare = git.Repo(opened.origin)
    tip = str(bare.git.rev_parse(branch))
    with bare.git.custom_environment(GIT_INDEX_FILE=str(opened.origin / "index-of-test")):
        bare.git.read_tree(tip)
        for entry in entries:
            bare.git.update_index("--add", "--replace", "--cacheinfo", entry)
        made = bare.git.write_tree()
    words = ["git", "-c", "user.name=x", "-c", "user.email=x@localhost", "commit-tree"]
    commit = str(bare.git.execute([*words, made, "-p", tip, "-m", "put"]))
    bare.git.update_ref(f"refs/heads/{branch}", commit)


LINK, SUBMODULE, FILE = "120000", "160000", "100644"


def _blob(opened: Opened, kind: str) -> str:
    """Return an object for an entry of this kind; a link's target is the text of the page."""
    bare = git.Repo(opened.origin)
    return str(bare.git.rev_parse("main" if kind == SUBMODULE else "main:BENCHMARKS.md"))


def test_evidence_elsewhere_is_not_downloaded(opened: Opened) -> None:
    passes, _, comment = opened.review(web="https://github.example")
    assert not passes and "is not in a release of this repository" in comment
    assert opened.fake.statuses[-1]["state"] == "failure"


def test_pull_request_without_results_succeeds(opened: Opened) -> None:
    bare = git.Repo(opened.origin)
    bare.git.update_ref("refs/heads/kvci/results", bare.git.rev_parse("main"))
    assert review_pull(opened.github, 1, opened.fake.url, "") is None
    assert opened.fake.statuses[-1]["state"] == "success" and not opened.fake.comments


def test_comment_is_replaced_when_results_are_removed(opened: Opened) -> None:
    opened.fake.assets.clear()
    assert "evidence was checked" in opened.review()[2]
    bare = git.Repo(opened.origin)
    bare.git.update_ref("refs/heads/kvci/results", bare.git.rev_parse("main"))
    assert review_pull(opened.github, 1, opened.fake.url, "") is None
    (comment,) = opened.fake.comments
    assert comment["body"] == f"{MARK}\n**This pull request changes no results.**"


def test_other_file_next_to_records_is_allowed(opened: Opened) -> None:
    _put(opened, "kvci/results", f"{FILE},{_blob(opened, FILE)},ci/results/README.md")
    passes, words_, _ = opened.review()
    assert passes and words_ == "2 new records match their evidence"


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (LINK, "BENCHMARKS.md"),
        (FILE, "BENCHMARKS.md/x"),
        (LINK, "ci"),
        (FILE, "ci"),
        (LINK, "ci/results"),
        (SUBMODULE, "ci/results"),
        (LINK, "ci/results/new.json"),
        (SUBMODULE, "ci/results/new.json"),
        (FILE, "ci/results/new.json/x"),
        (LINK, "ci/results/notes"),
    ],
)
def test_misplaced_results_are_a_problem(
    opened: Opened, tmp_path: Path, kind: str, path: str
) -> None:
    """After a merge, kvci would read results through the entry. Publishing refuses it too."""
    bare = git.Repo(opened.origin)
    bare.git.update_ref("refs/heads/kvci/results", bare.git.rev_parse("main"))
    entry = f"{kind},{_blob(opened, kind)},{path}"
    _put(opened, "kvci/results", entry)
    passes, words, comment = opened.review()
    assert not passes and "problems" in words
    assert f"{path} is a link, a file or a folder where none belongs" in comment
    bare.git.update_ref("refs/heads/main", bare.git.rev_parse("kvci/results"))
    bare.git.update_ref("-d", "refs/heads/kvci/results")
    target = Target("owner/name", str(opened.origin), web=opened.fake.url)
    with pytest.raises(UserError, match="where none belongs; results are plain files: remove it"):
        publish(tmp_path / "run", target, opened.github)
    assert [head.name for head in bare.heads] == ["main"]


def test_label_set_during_a_review_counts(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slower workflow run starts before the label is set, and ends last."""
    opened.fake.assets.clear()
    attached = opened.github.download_asset
    event = labelled(opened)
    given: list[bool] = []

    def slow(url: str, web: str, max_bytes: int) -> bytes:
        if not given:
            given.append(True)
            opened.fake.labels = [LABEL]
            assert opened.review(event=event)[0]
        return attached(url, web, max_bytes)

    monkeypatch.setattr(opened.github, "download_asset", slow)
    assert opened.review()[0] and given
    assert opened.fake.statuses[-1]["state"] == "success"


def test_head_that_drops_results_during_review_fails(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(number: int) -> list[str]:
        _push(opened)
        return ["README.md"]

    monkeypatch.setattr(opened.github, "changed", changed)
    with pytest.raises(UserError, match="has changed while it was read"):
        opened.review()
    assert opened.fake.statuses[-1]["state"] == "failure"


def test_head_that_moves_during_review_fails(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = opened.github.blob

    def moves(sha: str, max_bytes: int) -> bytes:
        _push(opened)
        return read(sha, max_bytes)

    monkeypatch.setattr(opened.github, "blob", moves)
    with pytest.raises(UserError, match="has changed while it was read"):
        opened.review()
    assert opened.fake.statuses[-1]["state"] == "failure" and not opened.fake.comments
