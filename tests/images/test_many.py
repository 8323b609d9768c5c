"""Pulls sixty images within a budget of ten, in a Docker daemon of the tests' own."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from kvci.cli import main
from kvci.docker import engine
from kvci.images.ledger import Ledger
from kvci.tasks.calibration import suite
from tests.images.registry import Handler, Registry, program, serving, synthetic
from tests.images.runs import MostImages, budget_gb, expected_classes, scripted_run
from tests.made_images import calibration_image
from tests.own_daemon import Daemon, own_daemon

pytestmark = [pytest.mark.faults, pytest.mark.timeout(2400)]
COUNT, HOLDS, LAYER_BYTES = 60, 10, 50_000_000
FEW, KILLS = 8, 3
DISK_BYTES = 6 << 30


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Registry]]:
    binary = program(tmp_path_factory.mktemp("registry"))  # the daemon's network has no packages
    with own_daemon(DISK_BYTES) as daemon, serving(binary) as registry:
        yield daemon, registry


@pytest.fixture
def registry(own: tuple[Daemon, Registry]) -> Registry:
    return own[1]


def image_ids() -> set[str]:
    return {image.id for image in engine.client().images.list(all=True)}


def test_sixty_images_fit_a_budget_of_ten(registry: Registry, tmp_path: Path) -> None:
    calibration_image()
    before = image_ids()
    instances = suite(f"calibration:split=test,functions=4,count={COUNT}")
    rows = tmp_path / "rows.jsonl"
    synthetic(registry, instances, LAYER_BYTES, rows)
    assert image_ids() == before
    with MostImages(registry) as images:
        folder, happened, found = scripted_run(
            rows,
            instances,
            tmp_path,
            block_size=2,
            slots=2,
            disk_budget_gb=budget_gb(HOLDS, LAYER_BYTES),
        )
    assert happened and found == expected_classes(instances)
    assert images.most <= HOLDS
    states = [entry.state for entry in Ledger.read(folder / "images.json").images]
    assert len(states) == COUNT and states.count("evicted") >= COUNT - HOLDS
    done = CliRunner().invoke(main, ["images", "prune"])
    assert done.exit_code == 0 and "removed" in done.output
    assert not engine.client().containers.list(all=True)
    assert image_ids() == before


def test_a_run_survives_a_daemon_killed_while_pulling(
    own: tuple[Daemon, Registry], tmp_path: Path
) -> None:
    daemon, registry = own
    instances = suite(f"calibration:split=test,functions=4,count={FEW}")
    rows = tmp_path / "rows.jsonl"
    synthetic(registry, instances, LAYER_BYTES, rows)
    kills = iter(range(KILLS))

    def kill(handler: Handler) -> bool:
        """Kill the daemon when it requests a layer."""
        if "/blobs/" in handler.path and handler.command == "GET" and next(kills, None) is not None:
            daemon.signal(signal.SIGKILL)
            daemon.start()
        return False

    registry.fault = kill
    _, happened, found = scripted_run(
        rows,
        instances,
        tmp_path,
        block_size=2,
        slots=2,
        disk_budget_gb=budget_gb(4, LAYER_BYTES),
    )
    assert happened and found == expected_classes(instances)
    assert next(kills, None) is None, "not every kill happened"
    assert not engine.client().containers.list(all=True)
