"""benchmark.yml, from a dispatch to the pull request."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import git
import pytest

from kvci.record.record import Record
from kvci.report.main import render_again
from tests.actions.act import GitHubHere
from tests.publish.fake_github import serving

INPUTS = {
    "experiment": "demo",
    "kv": "f16/f16, q8_0/q8_0",
    "dataset": "calibration:split=test,functions=4,files=3,count=4",
}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[GitHubHere]:
    with serving() as fake:
        yield GitHubHere(tmp_path, fake)


def changed(here: GitHubHere) -> list[str]:
    names: str = git.Repo(here.origin).git.diff("--name-only", "main", "kvci/results")
    return names.split()


def test_a_dispatch_becomes_a_pull_request_that_review_passes(here: GitHubHere) -> None:
    done = here.act("workflow_dispatch", "benchmark.yml", **INPUTS, shards="2", publish="true")
    assert done.code == 0, done.log[-5000:]
    jobs = {"plan", "run 1/2", "run 2/2", "collect", "publish"}
    assert done.jobs == dict.fromkeys(jobs, "success")
    names = changed(here)
    assert names[0] == "BENCHMARKS.md"
    assert [Path(name).name.split("-kv-")[1][:7] for name in names[1:]] == ["f16-f16", "q8_0-q8"]
    assert len(here.fake.pulls) == 1 and here.fake.dispatched[0]["inputs"] == {"number": "1"}
    assert "secret-token" not in done.log

    review = here.act("workflow_dispatch", "review.yml", number="1")
    assert (review.code, review.jobs) == (0, {"review": "success"}), review.log[-5000:]
    (status,) = here.fake.statuses
    assert (status["state"], status["sha"]) == ("success", here.fake.head(1))
    (comment,) = here.fake.comments
    assert "The rows are what their evidence gives" in comment["body"]

    _forge(here, names[1])
    again = here.act("workflow_dispatch", "review.yml", number="1")
    assert (again.code, again.jobs) == (1, {"review": "failure"}), again.log[-5000:]
    assert here.fake.statuses[-1]["state"] == "failure"
    (comment,) = here.fake.comments
    assert "is not what its evidence gives" in comment["body"]


def _forge(here: GitHubHere, path: str) -> None:
    """A commit on the branch makes one record better, and its row with it."""
    with tempfile.TemporaryDirectory() as folder:
        clone = git.Repo.clone_from(str(here.origin), folder, branch="kvci/results")
        record = Record.read(Path(folder, path))
        first = record.trials[0].model_copy(update={"steps": record.trials[0].steps + 1})
        record.model_copy(update={"trials": (first, *record.trials[1:])}).write(Path(folder, path))
        render_again(Path(folder, "ci/results"), Path(folder, "BENCHMARKS.md"))
        clone.git.add("--all")
        who = ["-c", "user.name=x", "-c", "user.email=x@localhost"]
        clone.git.execute(["git", *who, "commit", "-qm", "better"])
        clone.git.push("origin", "kvci/results")
