"""Run whole runs on the command line: expected classes, kill -9, stops, bad input."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from kvci.docker import engine
from kvci.host import ended
from kvci.record.from_run import build
from kvci.run.scripted import DATASET
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import Manifest, Outcome
from kvci.sandbox.cgroup import ROOT
from kvci.serve.replay import Reply, Script
from kvci.tasks.calibration import suite
from kvci.tasks.script import EXPECTED, behave
from tests.made_images import calibration_image

KVCI = [sys.executable, "-c", "from kvci.cli import main; main()"]
Known = dict[tuple[str, str], tuple[str, str, str, str]]


def temporary(out: Path) -> Path:
    """Return a separate temporary folder, in which a test sees the files that a run leaves."""
    folder = out / "temporary"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def scripted(out: Path, sandbox: str = "bwrap") -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*KVCI, "scripted", "--out", str(out), "--sandbox", sandbox],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | {"TMPDIR": str(temporary(out))},
    )


def outcomes(out: Path) -> Known:
    found = [Outcome.read(path) for path in out.glob("scripted/trials/*/*/*/outcome.json")]
    return {(o.arm, o.instance): (o.exit, o.cls, o.verdict, o.patch_sha256) for o in found}


def left_over(out: Path) -> list[str]:
    """Return the processes that belong to the run in this folder."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(out) in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(line)
    return found


def wait_until_nothing_is_left(out: Path) -> None:
    deadline = time.monotonic() + 10
    while left := left_over(out):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Known:
    """Return the outcomes of a run that was not killed. They have the expected classes."""
    out = tmp_path_factory.mktemp("undisturbed")
    process = scripted(out)
    text, _ = process.communicate(timeout=200)
    assert process.returncode == 0, text
    assert "Every trial has the expected class." in text
    found = outcomes(out)
    expected = dict(
        zip((i.row.instance_id for i in suite(DATASET)), EXPECTED.values(), strict=True)
    )
    assert {key: cls for key, (_, cls, _, _) in found.items()} == {
        (arm, name): cls for arm in ("f16-f16", "q8_0-q8_0") for name, cls in expected.items()
    }
    summary = json.loads((out / "scripted" / "summary.json").read_text())
    assert [arm["resolved"] for arm in summary["arms"]] == [1, 1]
    return found


def orphaned_containers() -> list[str]:
    """Return the containers of ended processes that still exist after 10 s.

    Other tests may have containers at the same time.
    """
    deadline = time.monotonic() + 10
    while True:
        owners = [
            container.labels[engine.OWNER]
            for container in engine.client().containers.list(
                all=True, filters={"label": engine.OWNER}, ignore_removed=True
            )
        ]
        left = [owner for owner in owners if ended(owner)]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)


@pytest.mark.long
def test_docker_gives_same_classes_as_bwrap(tmp_path: Path, undisturbed: Known) -> None:
    """If a run is stopped, it leaves no container."""
    calibration_image()
    first = scripted(tmp_path, "docker")
    deadline = time.monotonic() + 100
    while not outcomes(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(first.pid, signal.SIGTERM)
    first.communicate(timeout=60)
    assert not orphaned_containers()
    process = scripted(tmp_path, "docker")
    text, _ = process.communicate(timeout=400)
    assert process.returncode == 0, text
    assert outcomes(tmp_path) == undisturbed
    assert not orphaned_containers()


def kill_and_resume(
    out: Path,
    undisturbed: Known,
    kills: int,
    seed: int,
    start: Callable[[Path], "subprocess.Popen[str]"] = scripted,
    within_s: float = 6.0,
) -> None:
    """Kill the run at random times, then let it finish. The outcomes must be the same."""
    rng = random.Random(seed)
    for _ in range(kills):
        process = start(out)
        time.sleep(rng.uniform(1.0, within_s))
        before = outcomes(out)
        process.kill()
        process.communicate(timeout=30)
        wait_until_nothing_is_left(out)
        assert before.items() <= outcomes(out).items()
    process = start(out)
    text, _ = process.communicate(timeout=200)
    assert process.returncode == 0, text
    assert outcomes(out) == undisturbed
    wait_until_nothing_is_left(out)
    assert not RunDirectory(out / "scripted").scratch.exists()
    assert not list(temporary(out).glob("kvci-*"))
    groups = [g for kind in ("memory", "pids") for g in (ROOT / kind).glob("kvci-*")]
    assert not [g for g in groups if not Path("/proc", g.name.split("-")[1]).exists()]


def test_kill_9_loses_only_trials_in_flight(tmp_path: Path, undisturbed: Known) -> None:
    kill_and_resume(tmp_path, undisturbed, kills=3, seed=1)


@pytest.mark.long
def test_twenty_kills_lose_only_trials_in_flight(tmp_path: Path, undisturbed: Known) -> None:
    kill_and_resume(tmp_path, undisturbed, kills=20, seed=2)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.long),
        pytest.param(signal.SIGHUP, marks=pytest.mark.long),
    ],
)
def test_stop_takes_under_5_s_without_leftovers(number: int, tmp_path: Path) -> None:
    process = scripted(tmp_path)
    deadline = time.monotonic() + 60
    while not outcomes(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    started = time.monotonic()
    os.kill(process.pid, number)
    text, _ = process.communicate(timeout=60)
    assert time.monotonic() - started < 5
    assert process.returncode != 0
    assert "To resume" in text and "Traceback" not in text, text
    assert outcomes(tmp_path)
    wait_until_nothing_is_left(tmp_path)


def test_second_process_on_one_directory_is_refused(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "scripted") as locked:
        second = scripted(tmp_path)
        text, _ = second.communicate(timeout=100)
        assert (second.returncode, locked.outcomes()) == (2, []), text
    assert "Another kvci process works on" in text


def kvci(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*KVCI, *words], capture_output=True, text=True, timeout=400)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--kv", "f16/f17"), "not a KV type"),
        (("--shard", "4/2"), "not a shard"),
        (("--filter", "("), "not a regular expression"),
        (("--filter", "nothing"), "No instance"),
        (("--seeds", "1,x"), "not a list of whole numbers"),
        (("--seeds", "1,2"), "several seeds at temperature 0"),
        (("--context", "999999"), "trained with"),
        (("--model", "none.gguf"), "does not exist"),
        (("--engine", "/none"), "is not a program"),
        (("--run-id", "../../escaped"), "cannot name a run"),
        (("--run-id", "x" * 300), "cannot name a run"),
        (("--kv", "f16/f16 -ubb 32"), "may not set -ubb"),
        (("--engine", "replay:none"), "replay script none does not exist"),
        (("--dataset", "calibration:x=1"), "is not an option"),
    ],
)
def test_bad_input_gives_one_line_and_writes_nothing(
    tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    demo = Path(__file__).parents[2] / "ci" / "experiments" / "demo.toml"
    done = kvci("run", str(demo), "--out", str(tmp_path / "runs"), *words)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_demo_experiment_runs_and_refuses_other_spec(tmp_path: Path) -> None:
    """Run two arms on one instance with the embedded engine."""
    demo = str(Path(__file__).parents[2] / "ci" / "experiments" / "demo.toml")
    words = ["run", demo, "--out", str(tmp_path), "--run-id", "r", "--limit", "1"]
    words += ["--kv", "f16/f16", "--kv", "q4_0/q4_0"]
    done = kvci(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Full results: {tmp_path / 'r'}. Next: kvci compare {tmp_path / 'r'}\n" in done.stdout
    mib = {}
    for arm in ("f16-f16", "q4_0-q4_0"):
        effective = json.loads((tmp_path / "r" / "servers" / f"{arm}.0.json").read_text())
        assert effective["kv_type"] == arm.replace("-", "/")
        mib[arm] = effective["kv_mib"]
        (outcome,) = (tmp_path / "r" / "trials" / arm).glob("*/0/outcome.json")
        assert Outcome.read(outcome).verified
    assert mib["q4_0-q4_0"] / mib["f16-f16"] == pytest.approx(4.5 / 16, abs=0.001)
    again = kvci(*words)
    assert again.returncode == 0
    assert len(list((tmp_path / "r" / "servers").glob("*.log"))) == 2
    other = kvci(*words, "--slots", "3")
    assert other.returncode == 2
    assert "made for another spec" in other.stderr


def test_run_without_valid_trial_exits_1(tmp_path: Path) -> None:
    demo = str(Path(__file__).parents[2] / "ci" / "experiments" / "demo.toml")
    words = ["run", demo, "--limit", "1", "--kv", "f16/f16", "--engine", "/bin/false"]
    done = kvci(*words, "--out", str(tmp_path), "--run-id", "r")
    assert done.returncode == 1, done.stdout
    assert "I2 server: f16-f16 calibration__test-8x3-0 seed 0: llama-server ended" in done.stdout
    afile = tmp_path / "file"
    afile.touch()
    assert "cannot be made" in kvci(*words, "--out", str(afile)).stderr
    assert "cannot be read" in kvci("run", str(tmp_path)).stderr


LIAR = """
import sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
words = sys.argv[1:]
log = Path(words[words.index("--log-file") + 1])
log.write_text(Path(GOLDEN).read_text())
from kvci.serve import replay
class Handler(replay.Handler):
    def do_POST(self):
        if "/apply-template" in self.path:
            import json
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.reply(200, {"prompt": body.decode()})
        else:
            if "/chat/" in self.path:
                with log.open("a") as file:
                    file.write(LINE)
            super().do_POST()
server = replay.Replay(replay.Script.read(Path(SCRIPT)), int(words[words.index("--port") + 1]))
server.RequestHandlerClass = Handler
server.serve_forever()
"""


@pytest.mark.parametrize("dies", [False, True], ids=["lives", "dies"])
def test_trials_under_unproven_log_are_superseded(tmp_path: Path, dies: bool) -> None:
    """The third check reads the whole log, even if the server has ended."""
    name, instance = DATASET.replace("count=14", "count=1"), suite(DATASET)[0]
    steps = (
        (*behave(instance, "gold")[:2], Reply(fault="die")) if dies else behave(instance, "gold")
    )
    Script(answers={instance.row.instance_id: steps}).write(tmp_path / "script.json")
    golden = Path(__file__).parents[1] / "golden" / "b11434-cpu-f16-f16.log"
    line = "llama_context: flash_attn    = disabled\n"
    program = LIAR.replace("GOLDEN", repr(str(golden))).replace("LINE", repr(line))
    server = tmp_path / "llama-server"
    server.write_text(
        f"#!{sys.executable}\n{program}".replace("SCRIPT", repr(str(tmp_path / "script.json")))
    )
    server.chmod(0o755)
    model = str(Path(__file__).parents[2] / "ci" / "models" / "calibration.toml")
    words = ["run", "--model", model, "--kv", "f16/f16", "--dataset", name, "--context", "2048"]
    words += ["--slots", "2", "--engine", str(server), "--out", str(tmp_path), "--run-id", "r"]
    for _ in range(2):
        done = kvci(*words)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "flash attention is off" in done.stderr
    assert not list((tmp_path / "r" / "trials").glob("*/*/*/outcome.json"))
    shown = json.loads((tmp_path / "r" / "servers" / "f16-f16.0.json").read_text())
    if not dies:
        assert len(list((tmp_path / "r").glob("superseded/*/*/*/*/outcome.json"))) == 2
        assert shown["flash_attention"] == "off"


def test_shards_of_one_run_share_its_folder(tmp_path: Path) -> None:
    (instance, other) = suite("calibration:functions=4,count=2")
    answers = {i.row.instance_id: behave(i, "gold") for i in (instance, other)}
    Script(answers=answers).write(tmp_path / "script.json")
    model = str(Path(__file__).parents[2] / "ci" / "models" / "calibration.toml")
    words = ["run", "--model", model, "--kv", "f16/f16", "--run-id", "r", "--out", str(tmp_path)]
    words += ["--dataset", "calibration:functions=4,count=2", "--context", "4096"]
    words += ["--engine", f"replay:{tmp_path / 'script.json'}"]
    for shard in ("1/2", "2/2"):
        assert kvci(*words, "--shard", shard).returncode == 0
    manifests = [
        Manifest.read(tmp_path / "r" / f"shard-{n}-of-2" / "manifest.json") for n in (1, 2)
    ]
    assert [manifest.run_id for manifest in manifests] == ["r", "r"]
    assert [len(manifest.planned) for manifest in manifests] == [1, 1]
    assert manifests[0].spec_sha256 == manifests[1].spec_sha256
    assert manifests[0].start == manifests[1].start
    (record,) = build(tmp_path / "r", row=False)
    assert (record.complete, record.resolved, record.total) == (True, 2, 2)
    divided = kvci(*words, "--shard", "1/3")
    assert (
        divided.returncode == 2
        and "is a run of 2 shards; resume it with the same number" in divided.stderr
    )
    assert kvci(*words).returncode == 2, "an undivided run next to its shards"
    later = "2026-01-02T03:04:05Z"
    assert kvci(*words, "--shard", "1/2", "--start", later).returncode == 0
    first = Manifest.read(tmp_path / "r" / "shard-1-of-2" / "manifest.json")
    assert first == manifests[0].model_copy(update={"start": later}), "the run's start"
