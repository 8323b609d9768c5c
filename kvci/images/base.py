"""Makes the base image of all built images: Debian with git and Python, from its packages."""

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
"""Files that no program needs. They are a third of the image."""


def base(suite: str) -> str:
    """Return the name of the base image, `kvci/base:<suite>`; make the image if it is missing.

    Making the image takes about a minute. Raises UserError if debootstrap cannot make it.
    """
    return debian(f"{BASE}:{suite}", suite, PACKAGES)


def debian(name: str, suite: str, packages: str) -> str:
    """Return `name`. If no image has this name, make a Debian image with these packages.

    Raises UserError if debootstrap cannot make the image.
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
            raise UserError(
                f"debootstrap could not make Debian {suite} ({output}); check the network."
            )
        with tempfile.TemporaryFile() as tar:
            excluded = [f"--exclude=./{pattern}" for pattern in EXCLUDED]
            words = ["tar", "--directory", str(tree), *excluded, "--create", "."]
            subprocess.run(words, stdout=tar, check=True)
            tar.seek(0)
            repository, _, tag = name.rpartition(":")
            engine.client().api.import_image_from_data(tar, repository=repository, tag=tag)
    return name


def _debootstrap(folder: Path) -> list[str]:
    """Return the command that runs debootstrap; download it into the folder if not installed.

    debootstrap is a shell script, so unpacking its package is enough. Raises UserError if it cannot
    be downloaded.
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
