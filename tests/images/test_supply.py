"""Runs whose images come from a registry and do not all fit."""

import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from rich.console import Console

from kvci.errors import UserError
from kvci.images import shelf
from kvci.images.pull import Puller
from kvci.images.supply import Ledger
from kvci.run.directory import RunDirectory
from kvci.run.main import run
from kvci.sandbox import engine
from kvci.spec import load
from kvci.tasks.calibration import suite
from kvci.tasks.instance import Instance
from kvci.tasks.script import script
from tests.images.registry import Handler, Registry, serving, synthetic

LAYER_BYTES = 8 << 20
COUNT, HOLDS = 6, 2


class Shelves:
    """The most images of the registry that the engine ever had."""

    def __init__(self, registry: Registry) -> None:
        self._registry, self._stop, self.most = registry, threading.Event(), 0
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def count(self) -> int:
        return len(engine.client().images.list(f"{self._registry.address}/kvci-test/*"))

    def _look(self) -> None:
        while not self._stop.wait(0.05):
            self.most = max(self.most, self.count())


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with serving() as one:
        yield one


@pytest.fixture(scope="module")
def instances() -> list[Instance]:
    return suite(f"calibration:split=test,functions=4,count={COUNT}")


@pytest.fixture(scope="module")
def rows(
    registry: Registry, instances: list[Instance], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    synthetic(registry, instances, LAYER_BYTES, path)
    return path


@pytest.fixture(autouse=True)
def let_go(registry: Registry) -> Iterator[None]:
    registry.fault = None
    yield
    for kept in shelf.ours():
        if any(name.startswith(registry.address) for name in kept.names):
            shelf.let_go(kept)


def ran(
    rows: Path, instances: list[Instance], tmp_path: Path, **other: object
) -> tuple[Path, bool, dict[tuple[str, str], str]]:
    answers, _ = script(instances)
    answers.write(tmp_path / "script.json")
    asked = {
        "model": {"name": "scripted", "package": "kvci.calibration.model:plain"},
        "arms": ["f16/f16", "q8_0/q8_0"],
        "dataset": str(rows),
        "engine": f"replay:{tmp_path / 'script.json'}",
        "block_size": 1,
        "context": 4096,
        "max_steps": 8,
        "max_tokens": 200,
        "test_s": 5.0,
        "disk_reserve_gb": 1.0,
        "disk_budget_gb": (HOLDS * LAYER_BYTES + LAYER_BYTES // 2) / 1e9,
        "out": str(tmp_path),
    }
    folder, summary = run(load(None, asked | other), "r", Console(soft_wrap=True))
    found = {(o.instance, o.arm): str(o.cls) for o in RunDirectory(folder).outcomes()}
    return folder, summary.happened, found


def table(instances: list[Instance]) -> dict[tuple[str, str], str]:
    _, expected = script(instances)
    return {(name, arm): cls for name, cls in expected.items() for arm in ("f16-f16", "q8_0-q8_0")}


def test_a_run_larger_than_the_disk_goes_through_in_waves(
    registry: Registry, rows: Path, instances: list[Instance], tmp_path: Path
) -> None:
    with Shelves(registry) as shelves:
        folder, happened, found = ran(rows, instances, tmp_path)
    assert happened and found == table(instances)
    assert 1 <= shelves.most <= HOLDS
    ledger = Ledger.read(folder / "images.json").images
    assert len(ledger) == COUNT
    assert [entry.state for entry in ledger].count("let go") >= COUNT - HOLDS


def test_images_of_earlier_runs_make_room(
    registry: Registry, rows: Path, instances: list[Instance], tmp_path: Path
) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    first = {"filter": "-[01]$"}
    assert ran(rows, instances, tmp_path / "first", **first)[1]
    registry.asked.clear()
    _, happened, found = ran(rows, instances, tmp_path / "second", filter="-[12]$")
    assert happened and len(found) == 4
    blobs = [line for line in registry.asked if "/manifests/" in line]
    assert blobs and not any("/s1/" in line for line in blobs), "it was here already"


def test_a_registry_that_refuses_loses_nothing_and_the_run_goes_on_when_it_is_back(
    registry: Registry,
    rows: Path,
    instances: list[Instance],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kvci.images.supply.Puller", partial(Puller, patience_s=1.0))

    def refuses(handler: Handler) -> bool:
        if "/kvci-test/s0/" in handler.path:
            handler.refuse(503)
            return True
        return False

    registry.fault = refuses
    _, happened, found = ran(rows, instances, tmp_path)
    first = instances[0].row.instance_id
    assert not happened
    assert found == {key: cls for key, cls in table(instances).items() if key[0] != first}
    registry.fault = None
    _, happened, found = ran(rows, instances, tmp_path)
    assert happened and found == table(instances)


def test_an_image_that_no_registry_has_drops_its_pairs_and_names_them(
    registry: Registry, rows: Path, instances: list[Instance], tmp_path: Path
) -> None:
    lines = [json.loads(line) for line in rows.read_text().splitlines()[:2]]
    lines[0]["image"] = f"{registry.address}/kvci-test/none:latest"
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(map(json.dumps, lines)))
    folder, _, found = ran(other, instances, tmp_path)
    expected = {key: cls for key, cls in table(instances[:2]).items()}
    gone = instances[0].row.instance_id
    assert found == {key: "I1" if key[0] == gone else cls for key, cls in expected.items()}
    assert "unknown" in RunDirectory(folder).outcomes()[0].detail


def test_a_budget_that_holds_no_block_is_refused(
    registry: Registry, rows: Path, instances: list[Instance], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="raise it or make block_size smaller"):
        ran(rows, instances, tmp_path, block_size=4)


def test_pulling_beside_keeps_the_budget_too(
    registry: Registry, rows: Path, instances: list[Instance], tmp_path: Path
) -> None:
    with Shelves(registry) as shelves:
        _, happened, found = ran(rows, instances, tmp_path, pull_beside=True)
    assert happened and found == table(instances)
    assert shelves.most <= HOLDS
