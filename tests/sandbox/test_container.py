"""Tests of Docker only: the engine, images, containers of a killed kvci, a full disk."""

import http.client
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest
import requests
from docker.errors import NotFound

from kvci.children import ENDING
from kvci.docker import engine
from kvci.errors import UserError
from kvci.free_space import has_too_little
from kvci.grade.patch import _prepare
from kvci.host import process
from kvci.run.sandboxes import Sandboxes
from kvci.sandbox import Caps, DiffFailed, Limits, Result, SandboxFailed, container
from kvci.sandbox.container import Docker
from kvci.spec import without_model
from kvci.tasks.calibration import suite
from tests.made_images import calibration_image

FILES = {"a.py": "x = 1\n"}
MAKE = """
import os, sys
from kvci.sandbox.container import Docker
print(Docker(sys.argv[1], {"a.py": ""})._container.id, flush=True)
os.kill(os.getpid(), 9)
"""


def test_sweep_removes_only_containers_of_ended_processes() -> None:
    image = calibration_image()
    own = Docker(image, FILES, run="a-run")
    made = subprocess.run([sys.executable, "-c", MAKE, image], capture_output=True, text=True)
    left = made.stdout.strip()
    try:
        assert own._container.labels[engine.RUN] == "a-run"
        assert left and engine.client().containers.get(left).status == "running"
        engine.sweep()
        assert left not in [
            c.id for c in engine.client().containers.list(all=True, ignore_removed=True)
        ]
        assert own.run("echo still here", Limits()).output == b"still here\n"
    finally:
        own.close()


def test_sweep_removes_others_if_one_cannot_be_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier, an engine that never answered about one container kept all others."""
    removed: list[str] = []

    def remove(name: str, **_: object) -> None:
        removed.append(name)
        if name == "stuck":
            raise requests.ReadTimeout("no answer")

    names = [{"Id": name, "Labels": {engine.OWNER: process()}} for name in ("stuck", "x")]
    api = SimpleNamespace(containers=lambda **_: names, remove_container=remove)
    monkeypatch.setattr(engine, "client", lambda *_: SimpleNamespace(api=api))
    engine.sweep(own=True)
    assert removed == ["stuck", "x"]


def test_sweep_at_stop_does_not_wait_for_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier, an engine that answered only pings delayed a stop by a minute."""
    timeouts: list[float] = []

    def connection(timeout_s: float = 60.0) -> Any:
        timeouts.append(timeout_s)
        raise requests.ReadTimeout("no answer")

    monkeypatch.setattr(engine, "client", connection)
    monkeypatch.setattr(engine, "answers", lambda _: True)
    monkeypatch.setattr(ENDING, "is_set", lambda: True)
    engine.sweep(own=True)
    assert max(timeouts) <= 5


def test_container_stopped_or_removed_by_others_is_infrastructure() -> None:
    box = Docker(calibration_image(), FILES)
    try:
        box.run("echo kept > /tmp/file", Limits())
        engine.client().containers.get(box._container.id).kill()
        with pytest.raises(SandboxFailed, match="from outside"):
            box.run("echo lost", Limits())
        killer = threading.Timer(1, lambda: box._container.kill())
        box._container.start()
        killer.start()
        with pytest.raises(SandboxFailed):
            box.run("sleep 30", Limits())
        box._container.remove(force=True)
        with pytest.raises(SandboxFailed):
            box.run("true", Limits())
        with pytest.raises(SandboxFailed):
            box.diff()
    finally:
        box.close()


def test_clean_container_removed_by_others_is_infrastructure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    box, unpack = Docker(calibration_image(), FILES), Docker._unpack

    def removed(clean: Docker, tree: IO[bytes]) -> None:
        clean._container.remove(force=True)
        unpack(clean, tree)

    try:
        monkeypatch.setattr(Docker, "_unpack", removed)
        with pytest.raises(SandboxFailed, match="was removed"):
            box.diff()
    finally:
        box.close()


EXHAUST_MEMORY = "head -c 300M /dev/zero | tail"


def test_container_survives_exhausted_memory() -> None:
    box = Docker(calibration_image(), FILES, Caps(memory_mib=64))
    try:
        for _ in range(3):
            assert box.run(EXHAUST_MEMORY, Limits()).code != 0
            assert box.run("echo here", Limits()).output == b"here\n"
    finally:
        box.close()


def test_container_without_programs_uses_no_cpu() -> None:
    box = Docker(calibration_image(), FILES)

    def used_ns() -> int:
        return int(box._container.stats(stream=False)["cpu_stats"]["cpu_usage"]["total_usage"])

    try:
        box.run("rm -f /bin/sleep /usr/bin/sleep; kill -9 -1", Limits())
        before = used_ns()
        time.sleep(3)
        assert used_ns() - before < 10**9
        assert box.run("echo still here", Limits()).output == b"still here\n"
    finally:
        box.close()


def test_timeout_of_silent_engine_is_infrastructure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    box = Docker(calibration_image(), FILES)
    try:
        assert box.run("sleep 20", Limits(wall_s=1)).timed_out
        monkeypatch.setattr(container, "answers", lambda: False)
        with pytest.raises(SandboxFailed, match="does not answer"):
            box.run("sleep 20", Limits(wall_s=1))
    finally:
        box.close()


def test_stop_does_not_wait_for_command(monkeypatch: pytest.MonkeyPatch) -> None:
    stopping = threading.Event()
    monkeypatch.setattr(container, "ENDING", stopping)
    box = Docker(calibration_image(), FILES)
    try:
        threading.Timer(1, stopping.set).start()
        start = time.monotonic()
        box.run("sleep 30", Limits())
        assert time.monotonic() - start < 15
    finally:
        box.close()


def test_disk_filled_by_others_is_infrastructure(monkeypatch: pytest.MonkeyPatch) -> None:
    box = Docker(calibration_image(), FILES)
    try:
        monkeypatch.setattr(container, "disk_full", lambda: True)
        with pytest.raises(SandboxFailed, match="this trial did not fill it"):
            box.run("sleep 5", Limits())
        monkeypatch.setattr(container, "LARGE_WRITE_BYTES", 1 << 20)
        started = time.monotonic()
        ended = box.run("head -c 2M /dev/zero > /tmp/file; sleep 30", Limits())
        assert ended.code == 137 and not ended.timed_out and time.monotonic() - started < 20
    finally:
        box.close()


def test_trial_that_filled_disk_loses_container_and_patch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Earlier, its patch could not be made on the full disk, and this counted as infrastructure."""
    monkeypatch.setattr(container, "LARGE_WRITE_BYTES", 1 << 20)
    monkeypatch.setattr(container, "LARGE_WRITE_FILES", 1000)
    for run_again, fill in (
        (False, "head -c 2M /dev/zero > /tmp/file"),
        (True, "head -c 2M /dev/zero > /tmp/file"),
        (False, "mkdir many; touch many/{1..1100}"),
    ):
        box = Docker(calibration_image(), FILES)
        try:
            box.run(f"echo 'x = 2' > a.py; {fill}", Limits())
            with monkeypatch.context() as patch:
                patch.setattr(container, "disk_full", lambda: True)
                if run_again:
                    assert box.run("true", Limits()).code == 0
                with pytest.raises(DiffFailed, match="filled the disk"):
                    box.diff()
            with pytest.raises(NotFound):
                engine.client().containers.get(box._container.id)
            assert box.run("echo here", Limits()).code == 137
        finally:
            box.close()


def test_remote_disk_is_measured_in_clean_container(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The engine may run on another machine. The model's output proves nothing about that disk."""
    monkeypatch.setattr(container, "disk_stats", lambda: None)
    monkeypatch.setattr(container, "disk_full", lambda: False)
    box = Docker(calibration_image(), FILES)
    report = "echo 'write error: No space left on device'; exit 1"
    try:
        assert box.run(report, Limits()).code == 1
        box.run("echo 'echo 4096 1000 0 100 0' > /usr/bin/stat", Limits())
        assert box.run(report, Limits()).code == 1
        monkeypatch.setattr(
            container,
            "has_too_little",
            lambda *found: has_too_little(*found) or found[0] < found[1],
        )
        assert box.run("true", Limits()).code == 0
        with pytest.raises(SandboxFailed, match="Docker's disk is full"):
            box.run(report, Limits())
        monkeypatch.setattr(container, "LARGE_WRITE_BYTES", 0)
        assert box.run(report, Limits()).code == 1
    finally:
        box.close()


def test_wait_for_engine_and_disk_space(monkeypatch: pytest.MonkeyPatch) -> None:
    calibration_image()
    answers = iter([True, False])
    monkeypatch.setattr(engine, "disk_full", lambda: next(answers, True))
    engine.wait(30)
    with pytest.raises(UserError, match="disk is full"):
        engine.wait(0)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    engine.client.cache_clear()
    with pytest.raises(UserError, match="does not answer"):
        engine.wait(0)
    with pytest.raises(SandboxFailed, match="does not answer"):
        Docker("any")
    engine.client.cache_clear()


CONDA = """
mkdir -p /opt/miniconda3/bin
echo 'conda() { export ACTIVATED="$2"; export PATH="/opt/x/bin:$PATH"; }' \
  > /opt/miniconda3/bin/activate
"""


def test_only_commands_run_in_activated_environment() -> None:
    """The harness's eval script activates the environment itself, so it starts unactivated."""
    box, name = Docker(calibration_image(), FILES), "kvci-test:conda"
    try:
        box.script(CONDA, Limits())
        box._container.commit(*name.split(":"))
        with_conda = Docker(name)
        try:
            shown = "echo $ACTIVATED $PATH $PYTHONDONTWRITEBYTECODE"
            output = with_conda.run(shown, Limits()).output.decode()
            assert output.startswith("testbed /opt/x/bin:/usr/local/sbin") and output.endswith(
                " 1\n"
            )
            assert with_conda.script(shown, Limits()).output.startswith(b"/usr/local/sbin")
        finally:
            with_conda.close()
        engine.client().images.remove(name)
        box.script("echo false > /opt/miniconda3/bin/activate", Limits())
        box._container.commit(*name.split(":"))
        container._ACTIVATED.pop(name)
        with pytest.raises(SandboxFailed, match="cannot be activated"):
            Docker(name)
    finally:
        box.close()
        engine.client().images.remove(name, force=True)


def test_unknown_image_fails() -> None:
    calibration_image()
    with pytest.raises(SandboxFailed, match="Docker"):
        Docker("kvci.invalid/none:1")


def test_missing_docker_is_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    engine.client.cache_clear()
    with pytest.raises(UserError, match="Docker does not answer"):
        engine.check()
    engine.client.cache_clear()


def test_image_with_unknown_locale_is_usable() -> None:
    """bash then adds a warning to every output."""
    box = Docker(calibration_image(), FILES)
    conf = {"Env": ["LC_ALL=xx_XX.UTF-8", "PATH=/usr/local/bin:/usr/bin:/bin"]}
    made = box._container.commit("kvci-test", "locale", conf=conf)
    box.close()
    patch = "diff --git a/a.py b/a.py\n--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-x = 1\n+def (:\n"
    box = Docker("kvci-test:locale")
    try:
        assert b"cannot change locale" in box.run("true", Limits()).output
        assert box.diff() == b""
        assert _prepare(patch.encode(), box) == "a.py"
        assert box.diff().endswith(b"-x = 1\n+def (:\n")
    finally:
        box.close()
        engine.client().images.remove(made.id, force=True)


def test_missed_ping_makes_timeout_infrastructure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The engine answers again just when the time is over."""
    box = Docker(calibration_image(), FILES)
    monkeypatch.setattr(container, "WATCH_S", 1.0)
    pings = iter([False])
    monkeypatch.setattr(container, "answers", lambda: next(pings, True))
    try:
        with pytest.raises(SandboxFailed, match="time is unknown"):
            box.run("sleep 60", Limits(wall_s=4))
        assert box.run("sleep 60", Limits(wall_s=3)).timed_out
    finally:
        box.close()


def test_sandboxes_carry_run_id_and_no_network(tmp_path: Path) -> None:
    calibration_image()
    (instance,) = suite("calibration:count=1")
    spec = without_model({"dataset": "calibration:count=1"})
    for online in (False, True):
        sandboxes = Sandboxes.of(spec, "docker", tmp_path, "the-run")
        box = sandboxes.make(instance, network=online)
        try:
            attrs = box._container.attrs  # type: ignore[attr-defined]
            assert attrs["Config"]["Labels"][engine.RUN] == "the-run"
            assert (attrs["HostConfig"]["NetworkMode"] == "none") is not online
        finally:
            box.close()


def test_output_before_first_read_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The engine's answer and a command's first output may arrive in one piece."""
    box = Docker(calibration_image(), FILES)
    get_response = http.client.HTTPConnection.getresponse

    def late(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
        time.sleep(0.5)
        return get_response(connection)

    try:
        monkeypatch.setattr(http.client.HTTPConnection, "getresponse", late)
        assert box.run("echo one", Limits()).output == b"one\n"
        numbers = box.run("seq 4000", Limits()).output
        assert numbers == b"".join(b"%d\n" % n for n in range(1, 4001))
    finally:
        monkeypatch.undo()
        box.close()


def test_empty_activation_is_infrastructure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Earlier, this counted as a fault of kvci."""
    nothing = Result(b"", 0, False, 0, 0.1)
    monkeypatch.setattr(container, "_ACTIVATED", {})
    monkeypatch.setattr(Docker, "_exec", lambda *_: nothing)
    with pytest.raises(SandboxFailed, match="cannot be activated"):
        Docker(calibration_image())
