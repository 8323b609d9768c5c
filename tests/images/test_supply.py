"""Tests runs whose images come from a registry. The disk has no space for all of them."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from docker.errors import ImageNotFound

from kvci.cli import main
from kvci.docker import engine
from kvci.errors import UserError
from kvci.images import image_cache
from kvci.images.commands import pull
from kvci.images.history import STRIPPED, stripped_name
from kvci.images.ledger import Ledger
from kvci.images.pull import Puller
from kvci.images.supply import supply_for
from kvci.plan import Block, blocks
from kvci.run.grader import Grader
from kvci.run.regrade import regrade
from kvci.run.scheduler import Scheduler
from kvci.rundir.directory import RunDirectory
from kvci.sandbox import Limits
from kvci.sandbox.container import Docker
from kvci.spec import load
from kvci.tasks import row
from kvci.tasks.calibration import suite
from kvci.tasks.instance import Instance
from tests.images import runs
from tests.images.registry import NO_LATER_HISTORY, Fault, Handler, Registry, serving, synthetic
from tests.images.runs import Classes, MostImages, budget_gb, expected_classes
from tests.images.test_history import remove
from tests.made_images import calibration_image

LAYER_BYTES = 8 << 20
COUNT, HOLDS = 6, 2
RUN = """
import json, sys
from kvci.console import Terminal
from kvci.run.experiment import run
from kvci.spec import load
run(load(None, json.loads(sys.argv[1])), "r", Terminal(soft_wrap=True))
"""


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
def evicted(registry: Registry) -> Iterator[None]:
    registry.fault = None
    registry.requests.clear()
    yield
    for cached in image_cache.cached_images():
        if any(name.startswith(registry.address) for name in cached.names):
            image_cache.evict(cached)


BUDGET: dict[str, object] = {"disk_budget_gb": budget_gb(HOLDS, LAYER_BYTES)}


def budgeted_run(
    rows: Path, instances: list[Instance], out: Path, **other: object
) -> tuple[Path, bool, Classes]:
    return runs.scripted_run(rows, instances, out, **BUDGET | other)


def silence(seconds: float) -> Fault:
    """Deliver no blob for this many seconds from now."""
    until = time.monotonic() + seconds

    def fault(handler: Handler) -> bool:
        if "/blobs/" in handler.path:
            time.sleep(max(0.0, until - time.monotonic()))
        return False

    return fault


@pytest.mark.long
def test_a_run_larger_than_the_disk_completes(
    registry: Registry, rows: Path, instances: list[Instance], tmp_path: Path
) -> None:
    box = Docker(calibration_image())
    # An image of another run says nothing about the size of this run's images.
    box._container.commit(STRIPPED, "tiny")
    box.close()
    try:
        with MostImages(registry) as images:
            folder, happened, found = budgeted_run(rows, instances, tmp_path)
    finally:
        with contextlib.suppress(ImageNotFound):  # the image was evicted
            engine.client().images.remove(f"{STRIPPED}:tiny")
    assert happened and found == expected_classes(instances)
    assert 1 <= images.most <= HOLDS
    ledger = Ledger.read(folder / "images.json").images
    assert len(ledger) == COUNT
    assert [entry.state for entry in ledger].count("evicted") >= COUNT - HOLDS


@pytest.mark.long
def test_unexpectedly_large_images_keep_the_budget(
    registry: Registry, rows: Path, instances: list[Instance], tmp_path: Path
) -> None:
    """Earlier, all images were expected to be as small as the first, and were pulled at once.

    The test depends on the free disk space, so nothing else may use the disk meanwhile.
    """
    other = tmp_path / "other.jsonl"
    synthetic(registry, instances[:1], LAYER_BYTES // 8, other, "small")
    other.write_text(other.read_text() + "\n".join(rows.read_text().splitlines()[1:]))
    with MostImages(registry) as images:
        _, happened, found = budgeted_run(other, instances, tmp_path)
    assert happened and found == expected_classes(instances)
    assert 1 <= images.most <= HOLDS + 1, "the small image may come in addition"


def test_an_early_pull_keeps_the_first_images(
    registry: Registry,
    rows: Path,
    instances: list[Instance],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "free_bytes", lambda: 1 << 40)  # others use the disk meanwhile
    spec = load(None, runs.fields(rows, instances, tmp_path, BUDGET))
    messages: list[str] = []
    assert pull(spec, tmp_path / "images.json", messages.append)
    assert f"{HOLDS} of {COUNT} blocks have their images" in messages[-1]
    names = [json.loads(line)["image"] for line in rows.read_text().splitlines()]
    assert [engine.has(name) for name in names] == [True] * HOLDS + [False] * (COUNT - HOLDS)
    for needed_last in (names[0], names[1]):
        image_cache.mark(needed_last)
        cached = [name for image in image_cache.cached_images() for name in image.names]
        order = [name for name in cached if name in names]
        assert order[-1] == needed_last and len(order) == HOLDS
    shown = CliRunner().invoke(main, ["images", "show"])
    assert shown.exit_code == 0 and all(name in shown.output for name in order)


@pytest.mark.parametrize("prefetch", [False, True])
def test_the_next_wave_is_pulled_only_with_prefetch(
    prefetch: bool, registry: Registry, rows: Path, instances: list[Instance], tmp_path: Path
) -> None:
    other: dict[str, object] = {
        "pull_beside": prefetch,
        "disk_budget_gb": budget_gb(2 * HOLDS, LAYER_BYTES),
    }
    spec = load(None, runs.fields(rows, instances, tmp_path, other))
    supply = supply_for(
        spec, [Instance(one) for one in row.load(rows)], tmp_path / "images.json", print
    )
    waves = supply.waves(blocks([one.row.instance_id for one in instances], spec))
    assert len(next(waves)) == 1
    next(waves)
    registry.requests.clear()
    time.sleep(4)
    assert any("/blobs/" in line for line in registry.requests) is prefetch
    assert len(list(waves)) >= 1


def test_images_are_pulled_concurrently(
    registry: Registry, rows: Path, instances: list[Instance], tmp_path: Path
) -> None:
    both, seen = threading.Barrier(2, timeout=30), set[str]()

    def waits(handler: Handler) -> bool:
        image = handler.path.removeprefix("/v2/kvci-test/").partition("/")[0]
        if "/blobs/" in handler.path and image in ("s1", "s2") and image not in seen:
            seen.add(image)
            both.wait()
        return False

    spec = load(None, runs.fields(rows, instances, tmp_path, {"block_size": 2, "filter": "-[12]$"}))
    registry.fault = waits
    assert pull(spec, tmp_path / "images.json", print) and seen == {"s1", "s2"}
    assert not both.broken


@pytest.mark.long
def test_two_concurrent_runs_keep_their_images(
    registry: Registry, rows: Path, instances: list[Instance], tmp_path: Path
) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    spec = json.dumps(runs.fields(rows, instances, tmp_path / "first", BUDGET))
    with subprocess.Popen([sys.executable, "-c", RUN, spec], stdout=subprocess.PIPE) as first:
        _, happened, found = budgeted_run(rows, instances, tmp_path / "second")
        output, _ = first.communicate(timeout=300)
    assert happened and found == expected_classes(instances)
    outcomes = RunDirectory(tmp_path / "first" / "r").outcomes()
    found = {(o.instance, o.arm): str(o.cls) for o in outcomes}
    assert found == expected_classes(instances), output


@pytest.mark.long
def test_the_images_of_a_wave_are_locked(
    registry: Registry, rows: Path, instances: list[Instance], tmp_path: Path
) -> None:
    spec = load(None, runs.fields(rows, instances, tmp_path, BUDGET))
    from_registry = [Instance(each) for each in row.load(rows)]
    names = [one.row.instance_id for one in from_registry]
    supply = supply_for(spec, from_registry, tmp_path / "images.json", lambda _: None)
    waves = supply.waves(blocks(names, spec))
    wave = {name for block in next(waves) for name in block.instances}
    images = [one.row.image for one in from_registry if one.row.instance_id in wave]
    states = {entry.image: entry.state for entry in Ledger.read(tmp_path / "images.json").images}
    assert list(states.values()) == [*(["pulled"] * len(wave)), *(["needed"] * (COUNT - len(wave)))]
    script = "import sys; from kvci.images import locks; print(*map(locks.is_free, sys.argv[1:]))"
    for free in ("False", "True"):
        words = [sys.executable, "-c", script, *images]
        done = subprocess.run(words, capture_output=True, text=True)
        assert set(done.stdout.split()) == {free}, done
        list(waves)  # ends the wave


@pytest.mark.long
def test_stripped_local_images_count_in_the_budget(
    instances: list[Instance], tmp_path: Path
) -> None:
    """Each image loses a commit and is repacked, so the stripped image has a layer of its own."""
    plant = f"""
set -e; cd /testbed; git config user.name x; git config user.email x
head -c {LAYER_BYTES} /dev/urandom > made; git add made; git commit -qm base
git commit -qm later --allow-empty; git tag later; git reset -q --hard HEAD~1"""
    local, stripped = [], set[str]()
    for number, instance in enumerate(instances):
        box = Docker(calibration_image(), instance.files)
        try:
            assert box.script(plant, Limits(file_mib=1024)).code == 0
            box._container.commit("kvci-test", f"built{number}")
        finally:
            box.close()
        row = instance.row.model_copy(update={"image": f"kvci-test:built{number}"})
        local.append(Instance(row))
    spec = load(None, runs.fields(tmp_path, instances, tmp_path, BUDGET))
    try:
        supply = supply_for(spec, local, tmp_path / "images.json", lambda _: None)
        supplied, most = [], 0
        for wave in supply.waves(blocks([one.row.instance_id for one in local], spec)):
            names = [name for block in wave for name in block.instances]
            supplied += names
            expected = {stripped_name(one.row.image, "HEAD") for one in local}
            present = {name for name in expected if engine.has(name)}
            stripped |= present
            most = max(most, len(present))
            for one in local:
                if one.row.instance_id in names:
                    assert stripped_name(one.row.image, "HEAD") in present
        assert supplied == [one.row.instance_id for one in local]
        assert len(stripped) == COUNT and most <= HOLDS
    finally:
        for one in local:
            remove(one.row.image)


@pytest.mark.long
def test_images_of_earlier_runs_make_room(
    registry: Registry, rows: Path, instances: list[Instance], tmp_path: Path
) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    first = {"filter": "-[01]$"}
    assert budgeted_run(rows, instances, tmp_path / "first", **first)[1]
    registry.requests.clear()
    _, happened, found = budgeted_run(rows, instances, tmp_path / "second", filter="-[12]$")
    assert happened and len(found) == 4
    manifests = [line for line in registry.requests if "/manifests/" in line]
    assert manifests and not any("/s1/" in line for line in manifests), "the engine has it"


def test_a_run_resumes_after_the_registry_refused(
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
    _, happened, found = budgeted_run(rows, instances, tmp_path, limit=2)
    first, known = instances[0].row.instance_id, expected_classes(instances[:2])
    assert not happened
    assert found == {key: cls for key, cls in known.items() if key[0] != first}
    registry.fault = None
    _, happened, found = budgeted_run(rows, instances, tmp_path, limit=2)
    assert happened and found == known


def test_an_absent_image_drops_its_instance(
    registry: Registry, rows: Path, instances: list[Instance], tmp_path: Path
) -> None:
    lines = [json.loads(line) for line in rows.read_text().splitlines()[:2]]
    lines[0]["image"] = f"{registry.address}/kvci-test/none:latest"
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(map(json.dumps, lines)))
    folder, _, found = budgeted_run(other, instances, tmp_path)
    expected = {key: cls for key, cls in expected_classes(instances[:2]).items()}
    gone = instances[0].row.instance_id
    assert found == {key: "I1" if key[0] == gone else cls for key, cls in expected.items()}
    assert "unknown" in RunDirectory(folder).outcomes()[0].detail


def test_a_budget_smaller_than_one_block_is_refused(
    registry: Registry, rows: Path, instances: list[Instance], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="raise --disk-budget or lower block_size"):
        budgeted_run(rows, instances, tmp_path, block_size=3)


def test_one_oversized_block_does_not_end_the_run(
    registry: Registry, rows: Path, instances: list[Instance], tmp_path: Path
) -> None:
    """kvci reports the block and tries it last."""
    box = Docker(calibration_image(), instances[1].files)
    fill = f"head -c {3 * LAYER_BYTES} /dev/urandom > /layer; {NO_LATER_HISTORY}"
    assert box.script(fill, Limits(file_mib=1024)).code == 0
    box._container.commit("kvci-test", "large")
    box.close()
    large = registry.push("kvci-test:large", "kvci-test/large")
    engine.client().images.remove("kvci-test:large", force=True)
    lines = [json.loads(line) for line in rows.read_text().splitlines()[:3]]
    lines[1]["image"] = large
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    spec = load(None, runs.fields(path, instances, tmp_path, BUDGET))
    supply = supply_for(
        spec, [Instance(one) for one in row.load(path)], tmp_path / "images.json", lambda _: None
    )
    names = [one["instance_id"] for one in lines]
    for order in (names, [names[1], names[0], names[2]]):
        waves = supply.waves(blocks(order, spec))
        assert [n for wave in waves for b in wave for n in b.instances] == [names[0], names[2]]
        (line,) = supply.missing()
        assert large in line and "the disk budget is" in line
    supply = supply_for(
        spec, [Instance(one) for one in row.load(path)], tmp_path / "images.json", lambda _: None
    )
    with pytest.raises(UserError, match=r"The images of one block take \d+ MiB"):
        list(supply.waves(blocks([names[1]], spec)))


@pytest.mark.parametrize(
    "before",
    [
        pytest.param("its preflight", marks=pytest.mark.long),
        "its trials",
        pytest.param("its last grading", marks=pytest.mark.long),
    ],
)
def test_a_manually_removed_image_is_pulled_again(
    before: str,
    rows: Path,
    instances: list[Instance],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`docker image prune -a` on a runner removes images like this.

    Earlier, the image's trials stayed I1 (environment), or its instance became I0 (invalid) for all
    arms.
    """
    second = row.load(rows)[1]
    removed: list[Any] = []
    gradings: list[Instance] = []

    def prune() -> None:
        if not removed:
            removed.append(engine.client().images.get(second.image))
            for name in removed[0].tags:
                engine.client().images.remove(name, force=True)

    preflight, block, submit = Scheduler._preflight, Scheduler._block, Grader.submit

    def at_preflight(self: Scheduler, one: Block) -> None:
        if before == "its preflight" and second.instance_id in one.instances:
            prune()
        preflight(self, one)

    def at_block(self: Scheduler, one: Block) -> None:
        if before == "its trials" and second.instance_id in one.instances:
            self._await_preflight(one)
            prune()
        block(self, one)

    def at_grading(self: Grader, instance: Instance, *other: Any) -> Any:
        if before == "its last grading" and instance.row == second:
            if gradings:
                prune()
            gradings.append(instance)
        return submit(self, instance, *other)

    monkeypatch.setattr(Scheduler, "_preflight", at_preflight)
    monkeypatch.setattr(Scheduler, "_block", at_block)
    monkeypatch.setattr(Grader, "submit", at_grading)
    monkeypatch.setenv("KVCI_CACHE", str(tmp_path / "cache"))
    _, happened, found = budgeted_run(rows, instances, tmp_path, filter="-[01]$")
    expected = expected_classes(instances[:2])
    assert removed and happened and found == expected


@pytest.mark.long
def test_the_supply_waits_for_disk_space(
    rows: Path, instances: list[Instance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier, every block failed within seconds, and kvci tried it the last time at once."""
    until = time.monotonic() + 5
    free = engine.free_bytes()
    monkeypatch.setattr(engine, "free_bytes", lambda: 0 if time.monotonic() < until else free)
    spec = load(None, runs.fields(rows, instances, tmp_path, BUDGET))
    names = [one.row.instance_id for one in instances[:2]]
    from_registry = [Instance(one) for one in row.load(rows)]
    supply = supply_for(spec, from_registry, tmp_path / "images.json", lambda _: None)
    waves = supply.waves(blocks(names, spec))
    assert [n for wave in waves for b in wave for n in b.instances] == names


@pytest.mark.long
def test_bytes_shared_with_evicted_images_are_counted(
    instances: list[Instance], tmp_path: Path
) -> None:
    """Earlier, the bytes that an image had shared with an evicted one were not counted."""
    mib = LAYER_BYTES // 8
    names = [f"kvci-test:{name}" for name in ("sibling", "shared", "stripped")]

    def commit(image: str, files: dict[str, str] | None, change: str, name: str) -> None:
        box = Docker(image, files)
        assert box.script(change, Limits(file_mib=1024)).code == 0
        box._container.commit(*name.split(":"))
        box.close()

    def layer(size_bytes: int) -> str:
        return f"head -c {size_bytes} /dev/urandom > /layer{size_bytes}"

    later = f"""
set -e; cd /testbed; git config user.name x; git config user.email x
head -c {5 * mib} /dev/urandom > made; git add made; git commit -qm base
git commit -qm later --allow-empty; git tag later; git reset -q --hard HEAD~1"""
    try:
        parent = f"{layer(LAYER_BYTES)}; {NO_LATER_HISTORY}"
        commit(calibration_image(), instances[0].files, parent, "kvci-test:parent")
        for name in names[:2]:
            commit("kvci-test:parent", None, layer(mib), name)
            image_cache.mark(name)
        engine.client().images.remove("kvci-test:parent")
        commit(calibration_image(), instances[1].files, later, names[2])
        local = [
            Instance(one.row.model_copy(update={"image": name}))
            for one, name in zip(instances, names[1:], strict=False)
        ]
        other: dict[str, object] = {"disk_budget_gb": 6.3 * mib / 1e9, "block_size": 2}
        spec = load(None, runs.fields(tmp_path, instances, tmp_path, other))
        supply = supply_for(spec, local, tmp_path / "images.json", lambda _: None)
        planned = blocks([one.row.instance_id for one in local], spec)
        with pytest.raises(UserError, match="The images of one block take 14 MiB"):
            list(supply.waves(planned))
        assert not engine.has(names[0])
    finally:
        for cached in image_cache.cached_images():
            if set(names) & set(cached.names):
                image_cache.evict(cached)
        remove(names[2])


@pytest.mark.long
def test_prefetch_keeps_the_budget(
    registry: Registry, rows: Path, instances: list[Instance], tmp_path: Path
) -> None:
    with MostImages(registry) as images:
        _, happened, found = budgeted_run(rows, instances, tmp_path, pull_beside=True)
    assert happened and found == expected_classes(instances)
    assert images.most <= HOLDS


@pytest.mark.long
def test_regrading_pulls_evicted_images(
    registry: Registry, rows: Path, instances: list[Instance], tmp_path: Path
) -> None:
    folder, _, found = budgeted_run(rows, instances, tmp_path)
    with MostImages(registry) as images:
        again, left = regrade(folder, everything=True)
    assert {(o.instance, o.arm): str(o.cls) for _, o in again} == found and not left
    assert images.most <= HOLDS


@pytest.mark.long
def test_grading_predictions_pulls_their_images(
    registry: Registry, rows: Path, instances: list[Instance], tmp_path: Path
) -> None:
    words = ["grade", "--dataset", str(rows), "--gold", "--out", str(tmp_path), "--json"]
    words += ["--disk-budget", str(budget_gb(HOLDS, LAYER_BYTES)), "--disk-reserve", "1"]
    with MostImages(registry) as images:
        done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    found = {name: one["verdict"] for name, one in json.loads(done.stdout).items()}
    assert found == {one.row.instance_id: "resolved" for one in instances}
    assert 1 <= images.most <= HOLDS


def test_an_unwritable_ledger_is_named(
    registry: Registry, rows: Path, instances: list[Instance], tmp_path: Path
) -> None:
    """Earlier, kvci treated this error as a failure of the engine and retried."""
    name = instances[1].row.instance_id
    words = ["images", "pull", "--dataset", str(rows), "--instances", name, "--ledger"]
    done = CliRunner().invoke(main, [*words, "/proc/images.json"])
    assert done.exit_code == 2 and "/proc/images.json cannot be written" in done.output
    ledger = tmp_path / "images.json"
    done = CliRunner().invoke(main, [*words, str(ledger), "--disk-reserve", "1"])
    assert done.exit_code == 0 and "1 of 1 blocks" in done.output
    (entry,) = Ledger.read(ledger).images
    assert "/s1:" in entry.image and entry.state == "pulled"


@pytest.mark.long
def test_the_time_budget_ends_pulls(
    registry: Registry, rows: Path, instances: list[Instance], tmp_path: Path
) -> None:
    registry.fault = silence(20)
    began = time.monotonic()
    folder, happened, found = budgeted_run(rows, instances, tmp_path, time_budget_s=5)
    assert time.monotonic() - began < 60 and not happened and not found
    ledger = Ledger.read(folder / "images.json").images
    reasons = {entry.state: entry.why.partition(";")[0] for entry in ledger}
    assert reasons == {"failed": "the time budget is over", "needed": ""}
    registry.fault = None
    _, happened, found = budgeted_run(rows, instances, tmp_path)
    assert happened and found == expected_classes(instances)


@pytest.mark.long
def test_a_run_stops_quickly_while_it_pulls(
    registry: Registry, rows: Path, instances: list[Instance], tmp_path: Path
) -> None:
    registry.fault = silence(20)
    spec = json.dumps(runs.fields(rows, instances, tmp_path, BUDGET))
    words = [sys.executable, "-c", RUN, spec]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as stopped:
        while not any("/blobs/" in line for line in registry.requests):
            assert stopped.poll() is None
            time.sleep(0.1)
        began = time.monotonic()
        stopped.send_signal(signal.SIGINT)
        output, _ = stopped.communicate(timeout=60)
    assert time.monotonic() - began < 5
    assert b"To resume" in output and b"Traceback" not in output, output
    registry.fault = None
    _, happened, found = budgeted_run(rows, instances, tmp_path)
    assert happened and found == expected_classes(instances)
