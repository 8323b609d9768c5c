"""What would spoil a run, found before it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from kvci import doctor
from kvci.cli import main
from kvci.docker import engine
from kvci.doctor import Check, examine, with_own
from kvci.images.registry import RegistryAnswer
from kvci.serve.gguf import Header, locate
from kvci.spec import Model, Spec, load
from tests.conftest import data

NVIDIA = """#!/bin/sh
case "$1" in
  *compute-apps*) {apps} ;;
  *memory.free*) echo 70000 ;;
  *) echo "NVIDIA H100 80GB HBM3, 570.1" ;;
esac
"""


def spec(**asked: object) -> Spec:
    nothing = {"model": None, "dataset": None, "arms": ["f16/f16"]}
    return load(None, with_own(nothing | asked))


def found(asked: Spec) -> dict[str, Check]:
    return {check.name: check for check in examine(asked)}


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nvidia-smi that says there is a GPU, which nobody uses."""
    program = tmp_path / "nvidia-smi"
    program.write_text(NVIDIA.format(apps="true"))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return program


def test_a_machine_that_is_ready_has_nothing_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_others", lambda: ("none", ""))
    done = CliRunner().invoke(main, ["doctor", "--json"])
    checks = [Check.model_validate(one) for one in json.loads(done.output)]
    assert [check for check in checks if check.remedy] == [] and done.exit_code == 0
    assert {"model", "llama-server", "sandbox", "clock"} <= {check.name for check in checks}
    assert "build" in {check.name: check for check in checks}["llama-server"].found


def test_what_would_spoil_a_run_has_a_remedy_and_an_exit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["doctor", "--engine", "replay:none", "--model", str(tmp_path / "none.gguf")]
    assert CliRunner().invoke(main, words).exit_code == 2
    monkeypatch.setattr(doctor, "RUN_FOLDER_BYTES", 1 << 60)
    monkeypatch.setattr(doctor, "MEMORY_BESIDE_MIB", 1 << 40)
    done = CliRunner().invoke(main, ["doctor", "--filter", "nothing"])
    assert done.exit_code == 1
    for line in ("FAIL  dataset", "FAIL  memory", "FAIL  run folder"):
        assert line in done.output
    assert "widen it" in done.output and "another --out" in done.output


def test_who_else_is_on_the_gpu(gpu: Path) -> None:
    assert doctor._gpu(spec()) == (
        "NVIDIA H100 80GB HBM3, 570.1; 70000 MiB free, 1069 MiB needed",
        "",
    )
    gpu.write_text(NVIDIA.format(apps='echo "77, python, 900 MiB"'))
    said, remedy = doctor._gpu(spec())
    assert "in use by 77, python, 900 MiB" in said and remedy


def test_what_the_gpu_must_hold(gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and the largest arm's cache; of a model with windows nobody can say."""
    shape = Header("x", 1 << 20, 36, 128, 128, 8, True, True)
    monkeypatch.setattr(doctor, "header", lambda _: shape)
    large = spec(arms=["q8_0/q8_0", "f16/f16"], context=65536, slots=8)
    said, remedy = doctor._gpu(large)
    needed = 8 * 65536 * 36 * 8 * 2 * 128 * 2 >> 20
    weights = locate(large.model).stat().st_size >> 20
    assert f"{needed + weights + 1024} MiB needed" in said and "lower" in remedy.lower()
    assert not doctor._gpu(large.model_copy(update={"slots": 4}))[1]
    monkeypatch.setattr(doctor, "header", lambda _: replace(shape, whole_cache=False))
    assert "needed" not in doctor._gpu(large)[0]


def test_each_check_that_asks_for_the_model_keeps_the_reserve(
    gpu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's own check had failed for it, and the next one fetched the model."""
    asked = []

    def located(model: Model, reserve_bytes: int = 0) -> Path:
        asked.append(reserve_bytes)
        return locate(model)

    monkeypatch.setattr(doctor, "locate", located)
    mine = spec(disk_reserve_gb=50)
    for look in (doctor._model, doctor._gpu, doctor._memory):
        look(mine)
    assert asked == [50 * 10**9] * 3


def test_memory_that_a_driver_does_not_show_is_not_none(gpu: Path) -> None:
    gpu.write_text(NVIDIA.format(apps="true").replace("70000", "'[N/A]'"))
    said, remedy = doctor._gpu(spec())
    assert "free memory not shown" in said and "N/A" not in said and not remedy


def test_a_run_folder_that_cannot_be_is_found_before(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file" / "runs", Path("/proc/runs")):
        said, remedy = doctor._folder(spec(out=str(wrong)))
        assert "cannot be made" in said and "another --out" in remedy
    assert not doctor._folder(spec(out=str(tmp_path / "new" / "runs")))[1]


def test_an_engine_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"Version": "20.10.1", "Os": "linux", "Arch": "amd64", "ApiVersion": "1.41"}

    class Client:
        def version(self) -> dict[str, str]:
            return said

    monkeypatch.setattr(engine, "client", Client)
    monkeypatch.setattr(engine, "cpus", lambda: 2)
    assert doctor._docker() == ("20.10.1, linux/amd64, 2 CPUs", "")
    said["Arch"] = "arm64"
    assert "x86-64" in doctor._docker()[1]
    said |= {"Arch": "amd64", "ApiVersion": "1.40"}
    assert "newer" in doctor._docker()[1]


def test_room_and_pulls_are_held_against_what_is_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    from kvci.images import image_cache, registry
    from kvci.images.image_cache import CachedImage

    some = ["a", "b", "c", "d", "e"]
    kept = CachedImage(id="x", names=("kvci/pulled:x",), unshared_bytes=10**9, needed="")
    monkeypatch.setattr(engine, "free_bytes", lambda: 12 * 10**9)
    monkeypatch.setattr(image_cache, "cached_images", lambda: [kept])
    said, remedy = doctor._disk(spec(block_size=3), some, some)
    assert "room for 3 images like the largest here" in said and not remedy
    assert "block_size" in doctor._disk(spec(block_size=4), some, some)[1]
    assert "block_size" in doctor._disk(spec(block_size=3, disk_budget_gb=2.0), some, some)[1]
    full = [kept] * 12  # of an earlier wave of this very run; the next makes room for itself
    monkeypatch.setattr(image_cache, "cached_images", lambda: full)
    monkeypatch.setattr(engine, "free_bytes", lambda: 10 * 10**9)
    for budget in (None, 12.0):
        wide = spec(block_size=3, disk_budget_gb=budget)
        said, remedy = doctor._disk(wide, [*some, "kvci/pulled:x"], some)
        assert "room for 12 images" in said and not remedy
    monkeypatch.setattr(image_cache, "cached_images", list)
    assert "shows when the first one is here" in doctor._disk(spec(), some, some)[0]
    monkeypatch.setattr(engine, "full", lambda: True)
    assert "It is full" in doctor._disk(spec(), some, [])[1]
    answer = registry.RegistryAnswer(200, "it answers 200", remaining=4, window_s=21600.0)
    monkeypatch.setattr(registry, "ask", lambda *_: answer)
    said, remedy = doctor._registry(spec(), some)
    assert "4 pulls left for 5 images: the rest waits for its window of 6 h" in said and not remedy


@pytest.mark.parametrize("own", [200, 404])
def test_a_mirror_that_is_down_spoils_no_run(own: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(name: str, *_: object) -> RegistryAnswer:
        status = 0 if name.startswith("mirror:1/") else own
        return RegistryAnswer(status, f"{name} answers {status}")

    monkeypatch.setattr("kvci.images.registry.ask", ask)
    said, remedy = doctor._registry(spec(mirror="mirror:1"), ["registry:2/one:latest"])
    assert said == f"mirror:1/one:latest answers 0; registry:2/one:latest answers {own}"
    assert bool(remedy) is (own != 200)


def test_what_a_killed_run_left_is_seen() -> None:
    from tests.made_images import calibration_image
    from tests.sandbox.test_container import MAKE

    words = [sys.executable, "-c", MAKE, calibration_image()]
    before = doctor._leftovers()[0]
    subprocess.run(words, capture_output=True)
    try:
        assert doctor._leftovers()[0] != before and "the next run removes" in doctor._leftovers()[0]
    finally:
        engine.sweep()
    assert doctor._leftovers() == ("none", "")


def test_a_driver_that_does_not_answer_is_no_machine_without_a_gpu(gpu: Path) -> None:
    gpu.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed' >&2\nexit 9\n")
    _, remedy = doctor._gpu(spec())
    assert "driver" in remedy
    gpu.unlink()
    assert doctor._gpu(spec()) == ("none; the CPU computes", "")


def test_another_s_server_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "llama-server"
    program.symlink_to("/bin/sleep")
    detached = ["sh", "-c", f"{program} 30 >/dev/null 2>&1 & echo $!"]
    pid = subprocess.run(detached, capture_output=True, text=True).stdout.strip()
    try:
        for found in ("", "NVIDIA H100"):
            monkeypatch.setattr(doctor, "gpu", lambda found=found: found)
            said, remedy = doctor._others()
            assert f"({pid})" in said and bool(remedy) is bool(found)
    finally:
        subprocess.run(["kill", pid])


class Started:
    """A server whose log is a real one of a CUDA build."""

    def __init__(self, *_: object) -> None:
        from kvci.serve.effective import read

        self.effective = read(data("cuda-logs/f16-f16.log").read_text())

    def __enter__(self) -> "Started":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_a_pair_without_a_kernel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "Server", Started)
    said, remedy = doctor._server(spec(arms=["f16/f16", "q8_0/q8_0"]))
    assert "q4_0-q4_0 q8_0-q8_0 f16-f16" in said and not remedy
    _, remedy = doctor._server(spec(arms=["f16/f16", "q8_0/q4_0"]))
    assert "q8_0-q4_0 in GGML_CUDA_FA_QUANTS" in remedy
    assert not doctor._server(spec(arms=["f16/f16", "q8_0/q4_0 allow=converted"]))[1]


def test_a_dataset_with_images_needs_docker_a_disk_and_a_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kvci.tasks.calibration import suite

    rows = tmp_path / "rows.jsonl"
    row = suite("calibration:count=1")[0].row
    image = "localhost:1/none:latest"
    rows.write_text(row.model_copy(update={"image": image}).model_dump_json())
    try:
        engine.check()
    except Exception:
        pytest.skip("no Docker here")
    checks = found(spec(dataset=str(rows), disk_reserve_gb=10.0**6))
    assert "lower --disk-reserve" in checks["Docker's disk"].remedy
    assert checks["images"].found == "0 of 1 are here"
    assert "give a --mirror" in checks["registry"].remedy
    mirrored: list[str] = []

    def ask(name: str, *_: object) -> RegistryAnswer:
        mirrored.append(name)
        return RegistryAnswer(200, skew_s=90.0)

    monkeypatch.setattr("kvci.images.registry.ask", ask)
    assert doctor._clock(image, "localhost:2")[0].startswith("+90 s")
    assert mirrored == ["localhost:2/none:latest"]
    assert "sandbox" not in checks
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    engine.client.cache_clear()
    assert "start it" in found(spec(dataset=str(rows)))["Docker"].remedy
    engine.client.cache_clear()
