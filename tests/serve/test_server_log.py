"""Find the error of a server that did not start. The golden logs are from the embedded engine."""

import json

import pytest
from click.testing import CliRunner

from kvci.cli import main
from kvci.serve.server_log import lines_of, start_error
from tests.conftest import GOLDEN, data

OUT_OF_MEMORY = (
    "ggml_aligned_malloc: insufficient memory (attempted to allocate 781252.00 MB); "
    "failed to allocate buffer for kv cache"
)
HEAD_SIZE = (
    "llama_init_from_model: V cache type q8_0 with block size 32 does not divide n_embd_head_v=16"
)
ARCHITECTURE = "llama_model_load: error loading model: unknown model architecture: 'lxxma'"
FAILED = {
    "xllamacpp-cpu-out-of-memory": OUT_OF_MEMORY,
    "xllamacpp-cpu-head-size": HEAD_SIZE,
    "xllamacpp-cpu-unknown-architecture": ARCHITECTURE,
}


def golden(name: str) -> str:
    return (GOLDEN / f"{name}.log").read_text()


@pytest.mark.parametrize("name", FAILED)
def test_a_failed_start_shows_its_cause(name: str) -> None:
    assert start_error(golden(name)) == FAILED[name]


@pytest.mark.parametrize("name", [path.stem for path in GOLDEN.glob("*.log")])
def test_a_server_that_started_has_no_start_error(name: str) -> None:
    assert (start_error(golden(name)) is None) is (name not in FAILED)


def test_the_last_start_of_a_log_counts() -> None:
    failed, started = golden("xllamacpp-cpu-head-size"), golden("xllamacpp-cpu-q8_0-q8_0")
    assert start_error(failed + started) is None
    assert start_error(started + failed) == HEAD_SIZE


def test_an_error_before_loading_is_not_the_cause() -> None:
    no_gpu = "0.00.000.100 E ggml_cuda_init: failed to initialize CUDA: no device\n"
    assert start_error(no_gpu + golden("xllamacpp-cpu-head-size")) == HEAD_SIZE
    assert start_error(no_gpu) == "ggml_cuda_init: failed to initialize CUDA: no device"


@pytest.mark.parametrize(
    ("log", "error"),
    [
        ("error: invalid argument: --ctk\n", "error: invalid argument: --ctk"),
        (
            'error while handling argument "-ctk": Unsupported cache type: q4_k\n\nusage:\n-ctk\n',
            'error while handling argument "-ctk": Unsupported cache type: q4_k',
        ),
        (
            "Traceback (most recent call last):\n    raise RuntimeError('x')\n"
            "ModuleNotFoundError: No module named 'xllamacpp'\n",
            "ModuleNotFoundError: No module named 'xllamacpp'",
        ),
        (
            "llama-server: error while loading shared libraries: libcuda.so.1: cannot open\n",
            "llama-server: error while loading shared libraries: libcuda.so.1: cannot open",
        ),
        ("0.00.000.100 W srv  init: failed to set a limit\n", None),
        ("", None),
    ],
)
def test_lines_without_a_level(log: str, error: str | None) -> None:
    assert start_error(log) == error


def test_errors_of_a_jsonl_log() -> None:
    lines = [
        {"type": "log", "level": "info", "msg": "srv  load_model: loading model 'm.gguf'\n"},
        {"type": "log", "level": "error", "msg": "llama_model_load: error loading model: x\n"},
    ]
    log = "\n".join(map(json.dumps, lines))
    assert start_error(log) == "llama_model_load: error loading model: x"
    assert len(lines_of(log)) == 2


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("f16-f16-oom", "cudaMalloc failed: out of memory; failed to allocate buffer for kv cache"),
        ("q8_0-q8_0-fa-off", "quantized V cache requires flash_attn to be enabled"),
    ],
)
def test_errors_of_a_cuda_build(name: str, error: str) -> None:
    found = start_error(data(f"cuda-logs/{name}.log").read_text())
    assert found and found.endswith(error)


def test_inspect_shows_the_start_error_first() -> None:
    log = str(GOLDEN / "xllamacpp-cpu-head-size.log")
    done = CliRunner().invoke(main, ["inspect", log])
    lines = done.stdout.splitlines()
    assert done.exit_code == 1 and lines[0] == f"start error        {HEAD_SIZE}"
    assert "problem            the log does not show the KV type" in lines[1:]
    shown = json.loads(CliRunner().invoke(main, ["inspect", log, "--json"]).stdout)
    assert next(iter(shown)) == "start_error" and shown["start_error"] == HEAD_SIZE
