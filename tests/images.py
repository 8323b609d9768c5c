"""Docker images for the tests, made from Debian's packages: no image registry is asked."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from kvci.errors import UserError
from kvci.sandbox import docker
from kvci.tasks import calibration

PACKAGES = "ca-certificates,git,python3,python3-venv,python3-dev,gcc,libc6-dev,patch,make"


def calibration_image() -> str:
    """The image of the calibration suite, made once a machine; skips where it cannot be made."""
    try:
        docker.check()
    except UserError as error:
        pytest.skip(str(error))
    if not client_has(calibration.IMAGE):
        _bootstrap(calibration.IMAGE)
    return calibration.IMAGE


def client_has(image: str) -> bool:
    return bool(docker.client().images.list(image))


def _bootstrap(image: str) -> None:
    """Debian 12 with git and Python, under a minute. With CI=true a failure is no skip."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        words = [*_debootstrap(Path(folder)), "--variant=minbase", f"--include={PACKAGES}"]
        words += ["bookworm", str(tree)]
        if os.geteuid() != 0 or words[0] == "":
            _cannot("making an image for the tests needs root and debootstrap")
        made = subprocess.run(words, capture_output=True, text=True)
        if made.returncode:
            _cannot(f"debootstrap failed: {made.stdout[-300:]}{made.stderr[-300:]}")
        pack = f"tar -C {tree} -c . | docker import - {image}"
        if shutil.which("docker"):
            subprocess.run(pack, shell=True, check=True, capture_output=True)
            return
        with tempfile.TemporaryFile() as tar:
            subprocess.run(["tar", "-C", str(tree), "-c", "."], stdout=tar, check=True)
            tar.seek(0)
            repository, _, tag = image.partition(":")
            docker.client().api.import_image_from_data(tar, repository=repository, tag=tag)


def _debootstrap(folder: Path) -> list[str]:
    """The program and its environment; it is a shell script, so its package need not be set up."""
    found = shutil.which("debootstrap")
    if found:
        return [found]
    update = "(apt-get download debootstrap || (apt-get update && apt-get download debootstrap))"
    script = f"cd {folder} && {update} && dpkg -x debootstrap_*.deb . "
    if subprocess.run(script, shell=True, capture_output=True).returncode:
        return [""]
    share = folder / "usr" / "share" / "debootstrap"
    return ["env", f"DEBOOTSTRAP_DIR={share}", str(folder / "usr" / "sbin" / "debootstrap")]


def _cannot(why: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(f"{why}, and with CI=true and Docker running nothing is skipped")
    pytest.skip(why)
