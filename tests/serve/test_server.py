"""Start the embedded engine with a real model, and servers that do not do what was asked."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from kvci.errors import UserError
from kvci.serve import server as server_module
from kvci.serve.gguf import check, header
from kvci.serve.replay import Script
from kvci.serve.server import NotProven, Server, ServerFailed, command
from kvci.spec import Spec, load
from tests.conftest import MODEL


def spec(engine: str = "embedded", kv: str = "q8_0/q8_0", slots: int = 2) -> Spec:
    asked = {"model": str(MODEL), "arms": [kv], "dataset": "x", "context": 1024}
    return load(None, asked | {"engine": engine, "slots": slots})


def start(spec: Spec, model: Path, folder: Path) -> Server:
    return Server(spec, spec.baseline, model, folder / "server.log")


def test_header_of_the_model(model: Path, tmp_path: Path) -> None:
    found = header(model)
    assert (found.architecture, found.context_tokens, found.layers) == ("llama", 4096, 8)
    assert (found.head_k, found.head_v) == (64, 64)
    check(spec(), found)
    with pytest.raises(UserError, match="no chat template of its own"):
        check(spec(), replace(found, chat_template=False))
    (tmp_path / "no.gguf").write_bytes(b"GGUFno")
    with pytest.raises(UserError, match="not a GGUF model"):
        header(tmp_path / "no.gguf")


def test_the_embedded_engine_proves_answers_and_erases(model: Path, tmp_path: Path) -> None:
    with start(spec(), model, tmp_path) as server:
        found = server.effective
        assert (found.kv_type, found.context_per_slot, found.slots) == ("q8_0/q8_0", 1024, 2)
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "id_slot": 1}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()
        assert answer["timings"]["predicted_n"] == 4
        server.erase(1)
        assert server.healthy()
        url = server.url
    assert not server.alive()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


DEVIATIONS = {
    "type": ('words[words.index("-ctk") + 1] = "f16"', "KV type is f16/q8_0"),
    "context": ('words[words.index("-c") + 1] = "1024"', "context per slot is 512"),
    "slots": ('words[words.index("-np") + 1] = "1"', "slots is 1"),
    "unified": ('words[words.index("-no-kvu")] = "-kvu"', "cache layout is unified"),
    "flash": (
        'words[words.index("-fa") + 1] = "off"; words[words.index("-ctv") + 1] = "f16"',
        "flash attention is off",
    ),
    "rotation": ('os.environ["LLAMA_ATTN_ROT_DISABLE"] = "1"', "rotation is off"),
}


@pytest.mark.parametrize("kind", DEVIATIONS)
def test_a_server_that_differs_is_refused(kind: str, model: Path, tmp_path: Path) -> None:
    change, problem = DEVIATIONS[kind]
    wrapper = tmp_path / "llama-server"
    wrapper.write_text(
        f"#!{sys.executable}\nimport os, sys\nwords = sys.argv[1:]\n{change}\n"
        'os.execv(sys.executable, [sys.executable, "-m", "kvci.serve.embedded", *words])\n'
    )
    wrapper.chmod(0o755)
    with pytest.raises(NotProven, match=problem), start(spec(str(wrapper)), model, tmp_path):
        pass


LATE = """#!/bin/bash
words=()
for word in "$@"; do
  case $word in *.log) late=$word; word=$word.early ;; esac
  words+=("$word")
done
(
  until [ -s "$late.early" ]; do sleep 0.1; done
  sleep 4
  exec tail -f -n +1 --pid=$$ "$late.early" > "$late"
) &
exec {python} -m kvci.serve.embedded "${{words[@]}}"
"""


def test_a_late_log_is_waited_for(model: Path, tmp_path: Path) -> None:
    """On a busy machine, 2 of 130 servers answered before their log showed the slots."""
    wrapper = tmp_path / "llama-server"
    wrapper.write_text(LATE.format(python=sys.executable))
    wrapper.chmod(0o755)
    with start(spec(str(wrapper)), model, tmp_path) as server:
        assert server.effective.problems == ()


def test_a_chat_template_that_drops_messages_is_refused(model: Path, tmp_path: Path) -> None:
    asked = spec()
    dropping = asked.model.model_copy(update={"chat_template": "{{ 'model' }}"})
    with (
        pytest.raises(NotProven, match="renders 'model'"),
        start(asked.model_copy(update={"model": dropping}), model, tmp_path),
    ):
        pass


def test_a_server_that_cannot_start_reports_its_error(tmp_path: Path) -> None:
    missing = "ended while starting: gguf_init_from_file: failed to open GGUF file"
    with pytest.raises(ServerFailed, match=missing):
        start(spec(), tmp_path / "none.gguf", tmp_path).__enter__()
    with pytest.raises(UserError, match="is not a program"):
        command("/no/such/server")


@pytest.mark.parametrize("flags", ["--no-mmap", "-ub many"])
def test_flags_that_the_server_rejects_stop_the_run(
    flags: str, model: Path, tmp_path: Path
) -> None:
    with (
        pytest.raises(NotProven, match=f"rejects its flags: .*{flags.split()[0]}"),
        start(spec(kv=f"f16/f16 {flags}"), model, tmp_path),
    ):
        pass


def test_no_server_outlives_a_killed_kvci(model: Path, tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from tests.serve.test_server import *\n"
        f"with start(spec(), Path({str(model)!r}), Path({str(tmp_path)!r})) as server:\n"
        "    print(server._process.pid, flush=True); time.sleep(600)\n"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    kvci = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert kvci.stdout
    pid = int(kvci.stdout.readline())
    assert psutil.pid_exists(pid)
    kvci.kill()
    kvci.wait()
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the server still runs"
        time.sleep(0.05)


def test_a_binary_and_the_embedded_engine_agree(model: Path, tmp_path: Path) -> None:
    binary = os.environ.get("KVCI_LLAMA_SERVER") or shutil.which("llama-server")
    if not binary:
        pytest.skip("no llama-server on PATH or in KVCI_LLAMA_SERVER")
    found = []
    for engine in ("embedded", binary):
        with start(spec(engine), model, tmp_path / Path(engine).name) as server:
            found.append(server.effective.model_copy(update={"build": None}))
    assert found[0] == found[1]


def test_a_hanging_server_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "WATCH_S", 0.05)
    monkeypatch.setattr(server_module, "UNHEALTHY_MAX", 2)
    monkeypatch.setattr(Server.healthy, "__defaults__", (0.2,))
    script = tmp_path / "script.json"
    Script(answers={}).write(script)
    with start(spec(f"replay:{script}"), Path("none"), tmp_path) as server:
        assert server._process
        server._process.send_signal(signal.SIGSTOP)
        assert server._process.wait(20) == -signal.SIGKILL
        assert not server.alive()
