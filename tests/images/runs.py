"""Scripted runs whose instances have images of their own in a registry."""

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console

from kvci.docker import engine
from kvci.run.experiment import run
from kvci.rundir.directory import RunDirectory
from kvci.spec import load
from kvci.tasks.instance import Instance
from kvci.tasks.script import script
from kvci.threads import background
from tests.images.registry import Registry

Found = dict[tuple[str, str], str]
"""Instance and arm -> class."""


class Shelves:
    """The most images of the registry that the engine ever had."""

    def __init__(self, registry: Registry) -> None:
        self._registry, self._stop, self.most = registry, threading.Event(), 0

    def __enter__(self) -> Self:
        self._looking = background(self._look)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._looking.result()  # raises what ended it before its time

    def count(self) -> int:
        """An image and what it was before it was stripped are one: they share all bytes."""
        there = engine.client().api.images(f"{self._registry.address}/kvci-test/*")
        names = (name for one in there for name in one["RepoTags"] or one["RepoDigests"] or ())
        return len({name.rpartition("/")[2].split("@")[0].split(":")[0] for name in names})

    def _look(self) -> None:
        while not self._stop.wait(0.05):
            self.most = max(self.most, self.count())


def budget_gb(images: int, layer_bytes: int) -> float:
    """Holds so many images with a layer of their own, and no more."""
    return (images + 0.5) * layer_bytes / 1e9


def asked(
    rows: Path, instances: list[Instance], out: Path, other: dict[str, object]
) -> dict[str, object]:
    """The spec."""
    answers, _ = script(instances)
    answers.write(out / "script.json")
    return {
        "model": {"name": "scripted", "package": "kvci.demo.model:plain"},
        "arms": ["f16/f16", "q8_0/q8_0"],
        "dataset": str(rows),
        "engine": f"replay:{out / 'script.json'}",
        "block_size": 1,
        "context": 4096,
        "max_steps": 8,
        "max_tokens": 200,
        "test_s": 5.0,
        "disk_reserve_gb": 1.0,
        "out": str(out),
    } | other


def ran(
    rows: Path, instances: list[Instance], out: Path, **other: object
) -> tuple[Path, bool, Found]:
    """The run's folder, if all of it happened, and what it found."""
    spec = load(None, asked(rows, instances, out, other))
    folder, summary = run(spec, "r", Console(soft_wrap=True))
    found = {(o.instance, o.arm): str(o.cls) for o in RunDirectory(folder).outcomes()}
    return folder, summary.succeeded, found


def table(instances: list[Instance]) -> Found:
    """What it must find."""
    _, expected = script(instances)
    return {(name, arm): cls for name, cls in expected.items() for arm in ("f16-f16", "q8_0-q8_0")}
