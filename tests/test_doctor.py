"""What would spoil a run, found before it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from kvci import doctor
from kvci.cli import main
from kvci.doctor import Check, examine, with_own
from kvci.sandbox import engine
from kvci.spec import Spec, load
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
    assert "widen them" in done.output and "another --out" in done.output


def test_who_else_is_on_the_gpu(gpu: Path) -> None:
    assert doctor._gpu() == ("NVIDIA H100 80GB HBM3, 570.1; 70000 MiB free", "")
    gpu.write_text(NVIDIA.format(apps='echo "77, python, 900 MiB"'))
    said, remedy = doctor._gpu()
    assert "in use by 77, python, 900 MiB" in said and remedy


def test_a_driver_that_does_not_answer_is_no_machine_without_a_gpu(gpu: Path) -> None:
    gpu.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed' >&2\nexit 9\n")
    _, remedy = doctor._gpu()
    assert "driver" in remedy
    gpu.unlink()
    assert doctor._gpu() == ("none; the CPU computes", "")


def test_another_s_server_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

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
    assert "sandbox" not in checks
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    engine.client.cache_clear()
    assert "start it" in found(spec(dataset=str(rows)))["Docker"].remedy
    engine.client.cache_clear()
