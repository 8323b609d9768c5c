"""A bare repository with a base, and a fake of GitHub."""

from collections.abc import Iterator
from pathlib import Path

import git
import pytest

from kvci.report.benchmarks import EMPTY
from tests.publish.fake_github import Fake, serving


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    bare = tmp_path / "origin.git"
    git.Repo.init(bare, bare=True, initial_branch="main")
    work = git.Repo.init(tmp_path / "work", initial_branch="main")
    folder = Path(work.working_dir)
    (folder / "BENCHMARKS.md").write_text(f"Ours.\n\n{EMPTY}\nAnd prose.\n")
    (folder / "other.txt").write_text("not touched\n")
    work.git.add("--all")
    work.git.execute(
        ["git", "-c", "user.name=x", "-c", "user.email=x@localhost", "commit", "-qm", "base"]
    )
    work.git.push(str(bare), "main")
    return bare


@pytest.fixture
def fake() -> Iterator[Fake]:
    with serving() as one:
        yield one


@pytest.fixture(autouse=True)
def verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs here are of instances that no dataset has; test_regrade.py has real ones."""
    monkeypatch.setattr("kvci.publish.review.unlike", lambda run: [])
