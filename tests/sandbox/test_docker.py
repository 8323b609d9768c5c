"""What only Docker has: images, the engine, what a killed kvci left."""

import subprocess
import sys

import pytest

from kvci.errors import UserError
from kvci.sandbox import Limits, SandboxFailed, docker
from kvci.sandbox.docker import Docker
from tests.images import calibration_image

FILES = {"a.py": "x = 1\n"}
MAKE = """
import os, sys
from kvci.sandbox.docker import Docker
print(Docker(sys.argv[1], {"a.py": ""})._container.id, flush=True)
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_kvci_left_is_removed_and_nothing_else() -> None:
    image = calibration_image()
    mine = Docker(image, FILES)
    made = subprocess.run([sys.executable, "-c", MAKE, image], capture_output=True, text=True)
    left = made.stdout.strip()
    try:
        assert left and docker.client().containers.get(left).status == "running"
        docker.sweep()
        assert left not in [
            c.id for c in docker.client().containers.list(all=True, ignore_removed=True)
        ]
        assert mine.run("echo still here", Limits()).output == b"still here\n"
    finally:
        mine.close()


def test_a_container_that_the_trial_ended_goes_on_and_a_removed_one_is_infrastructure() -> None:
    box = Docker(calibration_image(), FILES)
    try:
        box.run("echo kept > /tmp/file", Limits())
        docker.client().containers.get(box._container.id).kill()
        assert box.run("echo lost", Limits()).code != 0
        assert box.run("cat /tmp/file", Limits()).output == b"kept\n"
        docker.client().containers.get(box._container.id).remove(force=True)
        with pytest.raises(SandboxFailed):
            box.run("true", Limits())
        with pytest.raises(SandboxFailed):
            box.diff()
    finally:
        box.close()


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
        box.script("echo false > /opt/miniconda3/bin/activate", Limits())
        box._container.commit(*name.split(":"))
        docker._ACTIVATED.pop(name)
        with pytest.raises(SandboxFailed, match="cannot be activated"):
            Docker(name)
    finally:
        box.close()
        docker.client().images.remove(name, force=True)


def test_an_image_that_cannot_be_had() -> None:
    calibration_image()
    with pytest.raises(SandboxFailed, match="Docker"):
        Docker("kvci.invalid/none:1")


def test_without_docker_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    docker.client.cache_clear()
    with pytest.raises(UserError, match="Docker does not answer"):
        docker.check()
    docker.client.cache_clear()
