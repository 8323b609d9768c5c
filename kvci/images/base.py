"""The image under all that are built here: Debian with git and Python, from its own packages."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from kvci.docker import engine
from kvci.errors import UserError

BASE = "kvci/base"
PACKAGES = "ca-certificates,git,python3,python3-venv,python3-dev,gcc,libc6-dev,patch,make"
LEFT_OUT = (
    *("var/cache/apt/archives/*.deb", "var/lib/apt/lists/*"),
    *("usr/share/locale/*", "usr/share/man/*", "usr/share/info/*"),
)
"""No program needs it, and it is a third of the image."""


def base(suite: str) -> str:
    """`kvci/base:<suite>`, made once a machine in about a minute. Raises UserError."""
    return debian(f"{BASE}:{suite}", suite, PACKAGES)


def debian(name: str, suite: str, packages: str) -> str:
    """The image of this name, a Debian with these packages; it is made if it is not there.

    Raises UserError.
    """
    if engine.has(name):
        return name
    if os.geteuid() != 0:
        raise UserError("debootstrap makes the base image and needs root; run kvci as root once.")
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        words = [*_debootstrap(Path(folder)), "--variant=minbase", f"--include={packages}"]
        made = subprocess.run([*words, suite, str(tree)], capture_output=True, text=True)
        if made.returncode:
            said = (made.stdout + made.stderr).strip()[-300:]
            raise UserError(f"debootstrap could not make Debian {suite}: {said}")
        with tempfile.TemporaryFile() as tar:
            left_out = [f"--exclude=./{pattern}" for pattern in LEFT_OUT]
            words = ["tar", "--directory", str(tree), *left_out, "--create", "."]
            subprocess.run(words, stdout=tar, check=True)
            tar.seek(0)
            repository, _, tag = name.rpartition(":")
            engine.client().api.import_image_from_data(tar, repository=repository, tag=tag)
    return name


def _debootstrap(folder: Path) -> list[str]:
    """The program and its environment; it is a shell script, so its package need not be set up."""
    found = shutil.which("debootstrap")
    if found:
        return [found]
    update = "(apt-get download debootstrap || (apt-get update && apt-get download debootstrap))"
    script = f"cd {folder} && {update} && dpkg -x debootstrap_*.deb ."
    if subprocess.run(script, shell=True, capture_output=True).returncode:
        raise UserError("There is no debootstrap here; install Debian's package of that name.")
    share = folder / "usr" / "share" / "debootstrap"
    return ["env", f"DEBOOTSTRAP_DIR={share}", str(folder / "usr" / "sbin" / "debootstrap")]
