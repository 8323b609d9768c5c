"""What only Docker has: images, the engine, what a killed kvci left."""

import http.client
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

import pytest
import requests
from docker.errors import NotFound

from kvci.children import ENDING
from kvci.docker import engine
from kvci.errors import UserError
from kvci.grade.patch import _prepare
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


def test_what_a_killed_kvci_left_is_removed_and_nothing_else() -> None:
    image = calibration_image()
    mine = Docker(image, FILES, run="a-run")
    made = subprocess.run([sys.executable, "-c", MAKE, image], capture_output=True, text=True)
    left = made.stdout.strip()
    try:
        assert mine._container.labels[engine.RUN] == "a-run"
        assert left and engine.client().containers.get(left).status == "running"
        engine.sweep()
        assert left not in [
            c.id for c in engine.client().containers.list(all=True, ignore_removed=True)
        ]
        assert mine.run("echo still here", Limits()).output == b"still here\n"
    finally:
        mine.close()


def test_a_stop_s_sweep_waits_for_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that pings and answers nothing else took a minute."""
    asked: list[float] = []

    def connection(timeout_s: float = 60.0) -> Any:
        asked.append(timeout_s)
        raise requests.ReadTimeout("no answer")

    monkeypatch.setattr(engine, "client", connection)
    monkeypatch.setattr(engine, "answers", lambda _: True)
    monkeypatch.setattr(ENDING, "is_set", lambda: True)
    engine.sweep(own=True)
    assert max(asked) <= 5


def test_a_container_that_another_ended_or_removed_is_infrastructure() -> None:
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


def test_a_clean_container_that_another_removed_is_infrastructure_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    box, take = Docker(calibration_image(), FILES), Docker._take

    def removed(clean: Docker, tree: IO[bytes]) -> None:
        clean._container.remove(force=True)
        take(clean, tree)

    try:
        monkeypatch.setattr(Docker, "_take", removed)
        with pytest.raises(SandboxFailed, match="gone"):
            box.diff()
    finally:
        box.close()


HOG = "head -c 300M /dev/zero | tail"


def test_a_container_whose_memory_a_command_uses_up_goes_on() -> None:
    box = Docker(calibration_image(), FILES, Caps(memory_mib=64))
    try:
        for _ in range(3):
            assert box.run(HOG, Limits()).code != 0
            assert box.run("echo here", Limits()).output == b"here\n"
    finally:
        box.close()


def test_a_container_without_its_programs_takes_no_processor() -> None:
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


def test_a_command_that_waited_for_the_engine_is_infrastructure(
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


def test_a_stop_does_not_wait_for_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    ending = threading.Event()
    monkeypatch.setattr(container, "ENDING", ending)
    box = Docker(calibration_image(), FILES)
    try:
        threading.Timer(1, ending.set).start()
        began = time.monotonic()
        box.run("sleep 30", Limits())
        assert time.monotonic() - began < 15
    finally:
        box.close()


def test_a_disk_that_others_filled_is_infrastructure(monkeypatch: pytest.MonkeyPatch) -> None:
    box = Docker(calibration_image(), FILES)
    try:
        monkeypatch.setattr(container, "disk_full", lambda: True)
        with pytest.raises(SandboxFailed, match="not by this trial"):
            box.run("sleep 5", Limits())
        monkeypatch.setattr(container, "HOG_BYTES", 1 << 20)
        started = time.monotonic()
        ended = box.run("head -c 2M /dev/zero > /tmp/file; sleep 30", Limits())
        assert ended.code == 137 and not ended.timed_out and time.monotonic() - started < 20
    finally:
        box.close()


def test_a_trial_that_filled_the_disk_loses_its_container_and_its_patch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its patch was made where the disk was full of it, which was taken for infrastructure."""
    monkeypatch.setattr(container, "HOG_BYTES", 1 << 20)
    for asked in (False, True):
        box = Docker(calibration_image(), FILES)
        try:
            box.run("echo 'x = 2' > a.py; head -c 2M /dev/zero > /tmp/file", Limits())
            with monkeypatch.context() as patch:
                patch.setattr(container, "disk_full", lambda: True)
                if asked:
                    assert box.run("true", Limits()).code == 0
                with pytest.raises(DiffFailed, match="filled the disk"):
                    box.diff()
            with pytest.raises(NotFound):
                engine.client().containers.get(box._container.id)
            assert box.run("echo here", Limits()).code == 137
        finally:
            box.close()


def test_a_disk_that_cannot_be_looked_at_is_asked_of_a_clean_container(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The engine may be another machine's; what the model says of its disk is not believed."""
    monkeypatch.setattr(container, "disk_stats", lambda: None)
    monkeypatch.setattr(container, "disk_full", lambda: False)
    box = Docker(calibration_image(), FILES)
    says = "echo 'write error: No space left on device'; exit 1"
    try:
        assert box.run(says, Limits()).code == 1
        box.run("echo 'echo 4096 1000 0 100 0' > /usr/bin/stat", Limits())
        assert box.run(says, Limits()).code == 1
        monkeypatch.setattr(engine, "MIN_FREE_BYTES", 1 << 60)
        monkeypatch.setattr(
            container, "has_too_little", lambda *of: engine.has_too_little(*of) or of[0] < of[1]
        )
        assert box.run("true", Limits()).code == 0
        with pytest.raises(SandboxFailed, match="its disk is full"):
            box.run(says, Limits())
        monkeypatch.setattr(container, "HOG_BYTES", 0)
        assert box.run(says, Limits()).code == 1
    finally:
        box.close()


def test_an_engine_is_waited_for_and_a_full_disk_too(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_commands_run_where_the_image_s_environment_is_activated_and_scripts_do_not() -> None:
    """The harness's eval script activates it itself, and must find the image's own."""
    box, name = Docker(calibration_image(), FILES), "kvci-test:conda"
    try:
        box.script(CONDA, Limits())
        box._container.commit(*name.split(":"))
        with_conda = Docker(name)
        try:
            shown = "echo $ACTIVATED $PATH $PYTHONDONTWRITEBYTECODE"
            said = with_conda.run(shown, Limits()).output.decode()
            assert said.startswith("testbed /opt/x/bin:/usr/local/sbin") and said.endswith(" 1\n")
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


def test_an_image_that_cannot_be_had() -> None:
    calibration_image()
    with pytest.raises(SandboxFailed, match="Docker"):
        Docker("kvci.invalid/none:1")


def test_without_docker_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    engine.client.cache_clear()
    with pytest.raises(UserError, match="Docker does not answer"):
        engine.check()
    engine.client.cache_clear()


def test_an_image_whose_locale_is_not_there_is_used_all_the_same() -> None:
    """bash says so on all that it is asked."""
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


def test_an_engine_that_was_silent_says_nothing_of_a_command_s_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It answers again just when the time is over."""
    box = Docker(calibration_image(), FILES)
    monkeypatch.setattr(container, "WATCH_S", 1.0)
    said = iter([False])
    monkeypatch.setattr(container, "answers", lambda: next(said, True))
    try:
        with pytest.raises(SandboxFailed, match="nobody knows what took so long"):
            box.run("sleep 60", Limits(wall_s=4))
        assert box.run("sleep 60", Limits(wall_s=3)).timed_out
    finally:
        box.close()


def test_a_run_s_sandboxes_carry_its_id_and_have_no_network(tmp_path: Path) -> None:
    calibration_image()
    (one,) = suite("calibration:count=1")
    spec = without_model({"dataset": "calibration:count=1"})
    for online in (False, True):
        sandboxes = Sandboxes.of(spec, "docker", tmp_path, "the-run")
        box = sandboxes.make(one, network=online)
        try:
            attrs = box._container.attrs  # type: ignore[attr-defined]
            assert attrs["Config"]["Labels"][engine.RUN] == "the-run"
            assert (attrs["HostConfig"]["NetworkMode"] == "none") is not online
        finally:
            box.close()


def test_nothing_is_lost_of_what_is_said_before_anybody_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The engine's answer and a command's first output may come in one piece."""
    box = Docker(calibration_image(), FILES)
    answer = http.client.HTTPConnection.getresponse

    def late(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
        time.sleep(0.5)
        return answer(connection)

    try:
        monkeypatch.setattr(http.client.HTTPConnection, "getresponse", late)
        assert box.run("echo one", Limits()).output == b"one\n"
        numbers = box.run("seq 4000", Limits()).output
        assert numbers == b"".join(b"%d\n" % n for n in range(1, 4001))
    finally:
        monkeypatch.undo()
        box.close()


def test_an_activation_that_says_nothing_is_the_engine_s_failing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was taken for a bug of kvci's, and the trial with it."""
    nothing = Result(b"", 0, False, 0, 0.1)
    monkeypatch.setattr(container, "_ACTIVATED", {})
    monkeypatch.setattr(Docker, "_exec", lambda *_: nothing)
    with pytest.raises(SandboxFailed, match="cannot be activated"):
        Docker(calibration_image())
