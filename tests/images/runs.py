"""Makes scripted runs. Each of their instances has an image of its own in a registry."""

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from kvci.console import Terminal
from kvci.docker import engine
from kvci.run.experiment import run
from kvci.rundir.directory import RunDirectory
from kvci.spec import load
from kvci.tasks.instance import Instance
from kvci.tasks.script import script
from kvci.threads import background
from tests.images.registry import Registry

Classes = dict[tuple[str, str], str]
"""(instance, arm) -> class code."""


class MostImages:
    """Counts the registry's images that the engine has; `most` is the largest count."""

    def __init__(self, registry: Registry) -> None:
        self._registry, self._stop, self.most = registry, threading.Event(), 0

    def __enter__(self) -> Self:
        self._counting = background(self._watch)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._counting.result()  # raises the error that stopped the count early

    def count(self) -> int:
        """Return the number of images now. An image and its history-stripped image count once."""
        images = engine.client().api.images(f"{self._registry.address}/kvci-test/*")
        names = (name for one in images for name in one["RepoTags"] or one["RepoDigests"] or ())
        return len({name.rpartition("/")[2].split("@")[0].split(":")[0] for name in names})

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self.most = max(self.most, self.count())


def budget_gb(images: int, layer_bytes: int) -> float:
    """Return a budget for exactly this many images with a layer of their own."""
    return (images + 0.5) * layer_bytes / 1e9


def fields(
    rows: Path, instances: list[Instance], out: Path, other: dict[str, object]
) -> dict[str, object]:
    """Write the script of the replay engine; return the fields of the run's specification."""
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


def scripted_run(
    rows: Path, instances: list[Instance], out: Path, **other: object
) -> tuple[Path, bool, Classes]:
    """Run the script; return the run's folder, True if all trials happened, and the classes."""
    spec = load(None, fields(rows, instances, out, other))
    folder, summary = run(spec, "r", Terminal(soft_wrap=True))
    found = {(o.instance, o.arm): str(o.cls) for o in RunDirectory(folder).outcomes()}
    return folder, summary.succeeded, found


def expected_classes(instances: list[Instance]) -> Classes:
    """Return the classes that the scripted run must report."""
    _, expected = script(instances)
    return {(name, arm): cls for name, cls in expected.items() for arm in ("f16-f16", "q8_0-q8_0")}
