"""Tests that kvci doctor finds the problems that would spoil a run, and says what to do."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kvci import doctor
from kvci.cli import main
from kvci.docker import engine
from kvci.doctor import Check, examine, with_calibration
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


def spec(**options: object) -> Spec:
    none_given = {"model": None, "dataset": None, "arms": ["f16/f16"]}
    return load(None, with_calibration(none_given | options))


def gpu_check(asked: Spec) -> tuple[str, str]:
    return doctor._gpu(asked, doctor._ModelFile(asked))


def checks_of(spec: Spec) -> dict[str, Check]:
    return {check.name: check for check in examine(spec)}


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Imitate an nvidia-smi that reports one idle GPU."""
    program = tmp_path / "nvidia-smi"
    program.write_text(NVIDIA.format(apps="true"))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return program


def test_ready_machine_passes_every_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_other_servers", lambda: ("none", ""))
    done = CliRunner().invoke(main, ["doctor", "--json"])
    checks = [Check.model_validate(check) for check in json.loads(done.output)]
    assert [check for check in checks if check.remedy] == [] and done.exit_code == 0
    assert {"model", "llama-server", "sandbox", "clock"} <= {check.name for check in checks}
    assert "build" in {check.name: check for check in checks}["llama-server"].found


def test_failed_check_has_remedy_and_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["doctor", "--engine", "replay:none", "--model", str(tmp_path / "none.gguf")]
    assert CliRunner().invoke(main, words).exit_code == 2
    monkeypatch.setattr(doctor, "RUN_FOLDER_BYTES", 1 << 60)
    monkeypatch.setattr(doctor, "OTHER_MEMORY_MIB", 1 << 40)
    done = CliRunner().invoke(main, ["doctor", "--filter", "nothing"])
    assert done.exit_code == 1
    for line in ("FAIL  dataset", "FAIL  memory", "FAIL  run folder"):
        assert line in done.output
    unwrapped = " ".join(done.output.split())
    assert "widen it" in unwrapped and "another --out" in unwrapped


def test_message_wraps_in_its_own_column() -> None:
    remedy = f"{'Free some space or ' * 4}give another --out."
    lines = Check(name="run folder", found="/tmp/" + "r" * 80, remedy=remedy).text().splitlines()
    assert lines[0] == f"FAIL  run folder     /tmp/{'r' * 80}"
    assert len(lines) == 3 and all(len(line) <= 80 for line in lines[1:])
    assert all(line[:21].isspace() and line[21] != " " for line in lines[1:])
    failed = Check(name="dataset", found="", remedy="It is empty; widen it.")
    assert failed.text() == "FAIL  dataset        It is empty; widen it."
    assert failed.line() == "dataset: It is empty; widen it."


def test_other_program_on_gpu_is_reported(gpu: Path) -> None:
    assert gpu_check(spec()) == (
        "NVIDIA H100 80GB HBM3, 570.1; 70000 MiB free, 1069 MiB needed",
        "",
    )
    gpu.write_text(NVIDIA.format(apps='echo "77, python, 900 MiB"'))
    found, remedy = gpu_check(spec())
    assert "in use by 77, python, 900 MiB" in found and remedy


def test_gpu_memory_need_is_weights_and_cache(gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest arm's cache counts. With attention windows, the cache's size is not known."""
    shape = Header("x", 1 << 20, 36, 128, 128, 8, True, True)
    monkeypatch.setattr(doctor, "header", lambda _: shape)
    large = spec(arms=["q8_0/q8_0", "f16/f16"], context=65536, slots=8)
    found, remedy = gpu_check(large)
    needed = 8 * 65536 * 36 * 8 * 2 * 128 * 2 >> 20
    weights = locate(large.model).stat().st_size >> 20
    assert f"{needed + weights + 1024} MiB needed" in found and "lower" in remedy.lower()
    assert not gpu_check(large.model_copy(update={"slots": 4}))[1]
    monkeypatch.setattr(doctor, "header", lambda _: replace(shape, whole_cache=False))
    assert "needed" not in gpu_check(large)[0]


def test_checks_of_model_keep_disk_reserve(gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier, the model's check failed for lack of space, but the next check downloaded it."""
    reserves = []

    def located(model: Model, reserve_bytes: int = 0) -> Path:
        reserves.append(reserve_bytes)
        return locate(model)

    monkeypatch.setattr(doctor, "locate", located)
    large_reserve = spec(disk_reserve_gb=50)
    for check in (doctor._model, doctor._gpu, doctor._memory):
        check(large_reserve, doctor._ModelFile(large_reserve))
    assert reserves == [50 * 10**9] * 3


def test_model_is_located_and_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []
    for name in ("locate", "header"):
        work = getattr(doctor, name)

        def counting(*args: object, _name: str = name, _work: Any = work) -> Any:
            found.append(_name)
            return _work(*args)

        monkeypatch.setattr(doctor, name, counting)
    names = [check.name for check in examine(spec())]
    assert {"model", "GPU", "memory"} <= set(names) and sorted(found) == ["header", "locate"]


def test_hidden_gpu_memory_fails_no_check(gpu: Path) -> None:
    gpu.write_text(NVIDIA.format(apps="true").replace("70000", "'[N/A]'"))
    found, remedy = gpu_check(spec())
    assert "free memory not shown" in found and "N/A" not in found and not remedy


def test_impossible_run_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "runs", Path("/proc/runs")):
        found, remedy = doctor._folder(spec(out=str(folder)))
        assert "cannot be created" in found and "another --out" in remedy
    assert not doctor._folder(spec(out=str(tmp_path / "new" / "runs")))[1]


def test_unsuitable_docker_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"Version": "20.10.1", "Os": "linux", "Arch": "amd64", "ApiVersion": "1.41"}

    class Client:
        def version(self) -> dict[str, str]:
            return answer

    monkeypatch.setattr(engine, "client", Client)
    monkeypatch.setattr(engine, "cpus", lambda: 2)
    assert doctor._docker() == ("20.10.1, linux/amd64, 2 CPUs", "")
    answer["Arch"] = "arm64"
    assert "x86-64" in doctor._docker()[1]
    answer |= {"Arch": "amd64", "ApiVersion": "1.40"}
    assert "newer" in doctor._docker()[1]


def test_space_and_pulls_are_checked_against_need(monkeypatch: pytest.MonkeyPatch) -> None:
    from kvci.images import image_cache, registry

    names = ["a", "b", "c", "d", "e"]
    kept = image_cache.CachedImage(
        id="x", names=("kvci/pulled:x",), unshared_bytes=10**9, needed=""
    )
    monkeypatch.setattr(engine, "free_bytes", lambda: 12 * 10**9)
    monkeypatch.setattr(image_cache, "cached_images", lambda: [kept])
    found, remedy = doctor._disk(spec(block_size=3), names, names)
    assert "room for 3 images like the largest here" in found and not remedy
    assert "block_size" in doctor._disk(spec(block_size=4), names, names)[1]
    assert "block_size" in doctor._disk(spec(block_size=3, disk_budget_gb=2.0), names, names)[1]
    full = [kept] * 12  # pulled earlier in this run, and evicted for the next block
    monkeypatch.setattr(image_cache, "cached_images", lambda: full)
    monkeypatch.setattr(engine, "free_bytes", lambda: 10 * 10**9)
    for budget in (None, 12.0):
        wide = spec(block_size=3, disk_budget_gb=budget)
        found, remedy = doctor._disk(wide, [*names, "kvci/pulled:x"], names)
        assert "room for 12 images" in found and not remedy
    monkeypatch.setattr(image_cache, "cached_images", list)
    assert "known after the first pull" in doctor._disk(spec(), names, names)[0]
    monkeypatch.setattr(engine, "disk_full", lambda: True)
    assert "too few bytes or inodes" in doctor._disk(spec(), names, [])[0]
    assert "kvci images prune" in doctor._disk(spec(), names, [])[1]
    answer = registry.RegistryAnswer(200, "it answers 200", remaining=4, window_s=21600.0)
    monkeypatch.setattr(registry, "ask", lambda *_: answer)
    found, remedy = doctor._registry(spec(), names)
    assert (
        "4 pulls left for 5 images: the others wait for the next quota, every 6 h" in found
        and not remedy
    )


@pytest.mark.parametrize("own", [200, 404])
def test_mirror_that_is_down_fails_no_check(own: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(name: str, *_: object) -> RegistryAnswer:
        status = 0 if name.startswith("mirror:1/") else own
        return RegistryAnswer(status, f"{name} answers {status}")

    monkeypatch.setattr("kvci.images.registry.ask", ask)
    found, remedy = doctor._registry(spec(mirror="mirror:1"), ["registry:2/one:latest"])
    assert found == f"mirror:1/one:latest answers 0; registry:2/one:latest answers {own}"
    assert bool(remedy) is (own != 200)


def test_leftovers_of_killed_run_are_reported() -> None:
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


def test_broken_driver_is_not_a_missing_gpu(gpu: Path) -> None:
    gpu.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed' >&2\nexit 9\n")
    _, remedy = gpu_check(spec())
    assert "driver" in remedy
    gpu.unlink()
    assert gpu_check(spec()) == ("no GPU; llama-server uses the CPU", "")


def test_other_llama_server_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "llama-server"
    program.symlink_to("/bin/sleep")
    detached = ["sh", "-c", f"{program} 30 >/dev/null 2>&1 & echo $!"]
    pid = subprocess.run(detached, capture_output=True, text=True).stdout.strip()
    try:
        for name in ("", "NVIDIA H100"):
            monkeypatch.setattr(doctor, "gpu", lambda name=name: name)
            found, remedy = doctor._other_servers()
            assert f"({pid})" in found and bool(remedy) is bool(name)
    finally:
        subprocess.run(["kill", pid])


class Started:
    """A server with the real log of a CUDA build."""

    def __init__(self, *_: object) -> None:
        from kvci.serve.effective import read

        self.effective = read(data("cuda-logs/f16-f16.log").read_text())

    def __enter__(self) -> "Started":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_kv_type_without_kernel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "Server", Started)
    found, remedy = doctor._server(spec(arms=["f16/f16", "q8_0/q8_0"]))
    assert "q4_0-q4_0 q8_0-q8_0 f16-f16" in found and not remedy
    _, remedy = doctor._server(spec(arms=["f16/f16", "q8_0/q4_0"]))
    assert "q8_0-q4_0 in GGML_CUDA_FA_QUANTS" in remedy
    assert not doctor._server(spec(arms=["f16/f16", "q8_0/q4_0 allow=converted"]))[1]


def test_dataset_with_images_needs_docker_disk_and_registry(
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
    checks = checks_of(spec(dataset=str(rows), disk_reserve_gb=10.0**6))
    assert "lower --disk-reserve" in checks["Docker's disk"].remedy
    assert checks["images"].found == "0 of 1 are on this machine"
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
    assert "start it" in checks_of(spec(dataset=str(rows)))["Docker"].remedy
    engine.client.cache_clear()
