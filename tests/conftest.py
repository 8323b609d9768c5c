"""Fixtures for many tests: the shipped model, data outside the project, and fakes."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import git
import pytest
from xdist.scheduler import LoadFileScheduling

from kvci.report.benchmarks import EMPTY
from kvci.serve.gguf import locate
from kvci.spec import Model, load
from tests.fake_github import Fake, serving

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"
DATA = ROOT.parent / "shared" / "data"
MODEL = ROOT / "ci" / "models" / "calibration.toml"
LONG_FILES = {"test_demo.py", "test_benchmark.py", "test_pull.py", "test_supply.py"}
"""They start first, so that no worker is left with one of them at the end."""

IMAGE_TESTS = ("tests/images/",)
"""They share one worker, because each may evict images that the others have pulled or stripped."""


for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    signal.signal(number, handler)  # nohup and `&` ignore them, and children would, too


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG_FILES)


class ByFile(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types for it
    def _split_scope(self, nodeid: str) -> str:
        return "images" if nodeid.startswith(IMAGE_TESTS) else str(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests do not use the cache of this machine."""
    os.environ["KVCI_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def model() -> Path:
    """The path of the model that kvci ships."""
    found: Model = load(None, {"model": str(MODEL), "arms": ["f16/f16"], "dataset": "x"}).model
    return locate(found)


def data(name: str) -> Path:
    """A file of the data outside the project; the test is skipped without it."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not in the data folder")
    return path


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A bare repository with one commit."""
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
    """GitHub's API, faked."""
    with serving() as server:
        yield server
