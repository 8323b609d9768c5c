"""The base of all images that are built here: Debian with git and Python, from its packages."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from kvci.docker import engine
from kvci.errors import UserError

BASE = "kvci/base"
PACKAGES = "ca-certificates,git,python3,python3-venv,python3-dev,gcc,libc6-dev,patch,make"
EXCLUDED = (
    *("var/cache/apt/archives/*.deb", "var/lib/apt/lists/*"),
    *("usr/share/locale/*", "usr/share/man/*", "usr/share/info/*"),
)
"""No program needs these files, and they are a third of the image."""


def base(suite: str) -> str:
    """The name `kvci/base:<suite>`; the image is made once a machine, in about a minute.

    Raises UserError.
    """
    return debian(f"{BASE}:{suite}", suite, PACKAGES)


def debian(name: str, suite: str, packages: str) -> str:
    """Make a Debian image with these packages, unless the engine has this name; returns the name.

    Raises UserError.
    """
    if engine.has(name):
        return name
    if os.geteuid() != 0:
        raise UserError("debootstrap makes the base image and needs root; run kvci as root once.")
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        words = [*_debootstrap(Path(folder)), "--variant=minbase", f"--include={packages}"]
        done = subprocess.run([*words, suite, str(tree)], capture_output=True, text=True)
        if done.returncode:
            output = (done.stdout + done.stderr).strip()[-300:]
            raise UserError(f"debootstrap could not make Debian {suite}: {output}")
        with tempfile.TemporaryFile() as tar:
            excluded = [f"--exclude=./{pattern}" for pattern in EXCLUDED]
            words = ["tar", "--directory", str(tree), *excluded, "--create", "."]
            subprocess.run(words, stdout=tar, check=True)
            tar.seek(0)
            repository, _, tag = name.rpartition(":")
            engine.client().api.import_image_from_data(tar, repository=repository, tag=tag)
    return name


def _debootstrap(folder: Path) -> list[str]:
    """The command that runs debootstrap, downloaded into the folder if it is not installed.

    It is a shell script, so its package only has to be unpacked.
    """
    found = shutil.which("debootstrap")
    if found:
        return [found]
    update = "(apt-get download debootstrap || (apt-get update && apt-get download debootstrap))"
    script = f"cd {folder} && {update} && dpkg -x debootstrap_*.deb ."
    if subprocess.run(script, shell=True, capture_output=True).returncode:
        raise UserError(
            "debootstrap is not installed and cannot be downloaded; install Debian's package "
            "debootstrap."
        )
    share = folder / "usr" / "share" / "debootstrap"
    return ["env", f"DEBOOTSTRAP_DIR={share}", str(folder / "usr" / "sbin" / "debootstrap")]
