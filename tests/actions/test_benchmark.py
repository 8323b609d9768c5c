"""benchmark.yml, from a dispatch to the pull request."""

from collections.abc import Iterator
from pathlib import Path

import git
import pytest

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


def test_a_dispatch_becomes_a_pull_request(here: GitHubHere) -> None:
    done = here.act("workflow_dispatch", "benchmark.yml", **INPUTS, shards="2", publish="true")
    assert done.code == 0, done.log[-5000:]
    jobs = {"plan", "run 1/2", "run 2/2", "collect", "publish"}
    assert done.jobs == dict.fromkeys(jobs, "success")
    origin = git.Repo(here.origin)
    changed = origin.git.diff("--name-only", "main", "kvci/results").split()
    assert [Path(name).parent.name for name in changed] == ["", "results", "results"]
    assert changed[0] == "BENCHMARKS.md"
    assert len(here.fake.pulls) == 1 and here.fake.dispatched
