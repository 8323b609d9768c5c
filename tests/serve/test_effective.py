"""Read golden logs of real servers. If a CUDA log is not in the project, its tests are skipped."""

import json

import pytest
from click.testing import CliRunner

from kvci.cli import main
from kvci.serve.effective import Effective, read
from kvci.serve.gguf import cache_mib, header, locate
from kvci.serve.proof import Expected, judge
from kvci.spec import load
from tests.conftest import GOLDEN, MODEL, data

ASKED = Expected(kv_type="q8_0/q8_0", context=2048, slots=2)
BUILDS = ["b11434-cpu", "xllamacpp-cpu"]


def golden(name: str) -> str:
    return (GOLDEN / f"{name}.log").read_text()


@pytest.mark.parametrize("build", BUILDS)
def test_cpu_builds_prove_what_was_asked(build: str) -> None:
    found = judge(read(golden(f"{build}-q8_0-q8_0")), ASKED)
    assert found.problems == ()
    assert (found.context_per_slot, found.slots, found.kernel_path) == (2048, 2, "cpu")
    assert (found.rotation, found.kv_mib, found.kv_device) == ("on", 22.32, "CPU")
    assert found.build


def test_both_sliding_window_caches_are_added() -> None:
    assert read(golden("b11434-cpu-f16-f16")).kv_mib == 42.0


def test_memory_is_the_memory_of_the_device() -> None:
    found = read(golden("b11434-cpu-q8_0-q8_0"))
    assert (found.weights_mib, found.compute_mib) == (247.82, 21.81)
    again = (
        golden("b11434-cpu-q8_0-q8_0") + "sched_reserve:  CPU compute buffer size =  30.00 MiB\n"
    )
    assert read(again).compute_mib == 30.0
    assert read("").weights_mib is None


def problems(log: str, asked: Expected = ASKED) -> str:
    return "; ".join(judge(read(log), asked).problems)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("K (q8_0)", "K (f16)", "KV type is f16/q8_0, but q8_0/q8_0 was requested"),
        (
            "n_ctx_slot = 2048",
            "n_ctx_slot = 1024",
            "context per slot is 1024, but 2048 was requested",
        ),
        ("n_slots = 2", "n_slots = 1", "slots is 1, but 2 was requested"),
        ("= enabled", "= disabled", "flash attention is off, but on was requested"),
        ("n_rot_", "n_other_", "does not show the rotation"),
        ("kv_unified            = false", "kv_unified            = true", "layout is unified"),
        ("2/2 seqs", "2/1 seqs", "layout is unified"),
        ("KV buffer size", "KV thing", "does not show the KV device"),
        ("llama_kv_cache: size", "llama_kv_cache: extent", "does not show the KV type"),
        ("system_info", "other_info", "kernel path is not shown"),
    ],
)
def test_each_deviation_is_a_problem(old: str, new: str, problem: str) -> None:
    log = golden("b11434-cpu-q8_0-q8_0")
    assert old in log
    assert problem in problems(log.replace(old, new))


def test_rotation_off_matters_only_for_quantized_types() -> None:
    assert problems(golden("b11434-cpu-f16-f16"), Expected(kv_type="f16/f16")) == ""
    log = golden("b11434-cpu-q8_0-q8_0").replace("n_rot_k = 256", "n_rot_k = 0")
    assert "rotation is off" in problems(log.replace("n_rot_v = 64", "n_rot_v = 0"))


def test_each_quantized_side_must_be_rotated() -> None:
    log = golden("b11434-cpu-q8_0-q8_0").replace("n_rot_v = 64", "n_rot_v = 0")
    assert "rotation is off" in problems(log)
    only_v = log.replace("K (q8_0)", "K (f16)").replace("n_rot_v = 0", "n_rot_v = 64")
    assert read(only_v.replace("n_rot_k = 256", "n_rot_k = 0")).rotation == "on"


def test_older_forms_of_rotation_and_splits() -> None:
    log = golden("b11434-cpu-q8_0-q8_0").replace("n_rot_k = 256", "attn_rot_k = 1")
    log = log.replace("n_rot_v = 64", "attn_rot_v = 1").replace("splits = 1", "x\ngraph splits = 1")
    found = read(log)
    assert (found.rotation, found.graph_splits) == ("on", 1)


def test_an_empty_log_shows_nothing() -> None:
    found = judge(read(""), ASKED)
    assert found.kv_type is None and found.kernel_path == "not shown"
    assert len(found.problems) >= 7


@pytest.mark.parametrize(
    ("name", "kv", "path", "problem"),
    [
        ("f16-f16", "f16/f16", "compiled", ""),
        ("q8_0-q8_0", "q8_0/q8_0", "compiled", ""),
        ("q8_0-q8_0-jsonl", "q8_0/q8_0", "compiled", ""),
        ("q4_0-q4_0-norot", "q4_0/q4_0", "compiled", "rotation is off"),
        ("q8_0-q4_0-notcompiled", "q8_0/q4_0", "converted", "path is converted"),
        ("iq4_nl-iq4_nl-cpu", "iq4_nl/iq4_nl", "cpu", "path is cpu"),
        ("q8_0-q8_0-fa-off", "q8_0/q8_0", "not shown", "does not show the KV type"),
        ("f16-f16-oom", "f16/f16", "not shown", "does not show the KV type"),
    ],
)
def test_cuda_logs_show_the_kernel_path(name: str, kv: str, path: str, problem: str) -> None:
    found: Effective = judge(
        read(data(f"cuda-logs/{name}.log").read_text()), Expected(kv_type=kv, context=8192, slots=2)
    )
    assert found.kernel_path == path
    assert problem in "; ".join(found.problems)
    assert bool(found.problems) is bool(problem)


@pytest.mark.parametrize(
    ("kv", "path", "splits"),
    [
        ("f16/f16", "compiled", 2),
        ("q8_0/q8_0", "compiled", 2),
        ("q4_0/q4_0", "compiled", 2),
        ("q8_0/q4_0", "converted", 2),  # the build lacks the kernel: one warning
        ("iq4_nl/iq4_nl", "cpu", 2 + 2 * 8),  # two splits a layer, no warning
    ],
)
def test_the_kernel_path_of_a_cuda_build(kv: str, path: str, splits: int) -> None:
    found = judge(
        read(golden(f"b11434-cuda-{kv.replace('/', '-')}")),
        Expected(kv_type=kv, context=4096, slots=2),
    )
    assert (found.kernel_path, found.graph_splits, found.kv_device) == (path, splits, "CUDA0")
    assert found.fa_pairs == ("f16-f16", "q8_0-q8_0", "q4_0-q4_0")
    assert found.build == "11434 (sdist.b0a2feb64c6f)"
    wrong = [] if path == "compiled" else [f"the kernel path is {path}, but compiled was requested"]
    assert list(found.problems) == wrong


def test_all_kernels_means_every_pair_with_a_kernel() -> None:
    log = golden("b11434-cuda-q4_0-q4_0").replace("f16-f16,q8_0-q8_0,q4_0-q4_0", "all")
    found = read(log)
    assert found.kernel_path == "compiled"
    assert found.fa_pairs and len(found.fa_pairs) == 49 and "q8_0-q4_0" in found.fa_pairs
    assert read(log.replace("K (q4_0)", "K (iq4_nl)")).kernel_path == "not shown"


def test_inspect_exits_1_with_the_problem() -> None:
    log = str(GOLDEN / "b11434-cpu-q8_0-q8_0.log")
    fine = CliRunner().invoke(main, ["inspect", log, "--kv", "q8_0/q8_0", "--json"])
    assert fine.exit_code == 0
    shown = json.loads(fine.stdout)
    assert shown["kv_type"] == "q8_0/q8_0" and shown["problems"] == []
    wrong = CliRunner().invoke(main, ["inspect", log, "--kv", "q4_0/q4_0"])
    assert wrong.exit_code == 1
    assert "KV type is q8_0/q8_0, but q4_0/q4_0 was requested" in wrong.stdout
    assert "kv                 22.32 MiB" in wrong.stdout
    for bad in (["no-such.log"], [log, "--kv", "q9"]):
        assert CliRunner().invoke(main, ["inspect", *bad]).exit_code == 2


@pytest.mark.parametrize("kv", ["f16-f16", "q8_0-q8_0", "q4_0-q4_0", "q8_0-q4_0"])
def test_the_cache_has_the_predicted_size(kv: str) -> None:
    """The log is from the calibration model on a GPU."""
    found = read(golden(f"b11434-cuda-{kv}"))
    asked = {"model": str(MODEL), "arms": [kv.replace("-", "/")], "dataset": "calibration"}
    spec = load(None, asked | {"context": found.context_per_slot, "slots": found.slots})
    assert cache_mib(spec, header(locate(spec.model))) == found.kv_mib
