"""Prepare an Ubuntu machine with an NVIDIA driver for kvci: packages, a user, folders.

    sudo python3 ci/runner/box.py --dry-run
    sudo python3 ci/runner/box.py

The user is in Docker's group, which is as powerful as root: do not use it for anything else.
"""

import argparse
import grp
import os
import pwd
import shutil
import sys
from pathlib import Path

from steps import Failed, Step, apply, arguments, file, run

USER, HOME = "kvci", Path("/var/lib/kvci")
HERE, VENV, COMMAND = Path(__file__).parents[2], Path("/opt/kvci/venv"), Path("/usr/local/bin/kvci")
PYTHON = (3, 11)
PACKAGES = ("python3-venv", "git", "make", "cmake", "ninja-build", "g++", "libicu-dev")
DOCKER = "docker.io"
NAMESPACES = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
SYSCTL = Path("/etc/sysctl.d/60-kvci.conf")


def missing_packages() -> list[str]:
    docker = () if shutil.which("docker") else (DOCKER,)  # packages of docker.com are fine, too
    return [name for name in (*PACKAGES, *docker) if not _installed(name)]


def _installed(name: str) -> bool:
    try:
        return run("dpkg-query", "-W", "-f", "${db:Status-Status}", name) == "installed"
    except Failed:
        return False


def install() -> None:
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    run("apt-get", "update", "-q")
    run("apt-get", "install", "-y", "-q", "--no-install-recommends", *missing_packages())


def user_exists() -> bool:
    try:
        return Path(pwd.getpwnam(USER).pw_dir) == HOME and HOME.is_dir()
    except KeyError:
        return False


def in_docker() -> bool:
    try:
        return USER in grp.getgrnam("docker").gr_mem
    except KeyError:
        return False


def is_private(path: Path) -> bool:
    if path.is_symlink() or not path.is_dir():
        return False
    return path.owner() == USER and path.stat().st_mode & 0o777 == 0o750


def make_private(path: Path) -> None:
    """Make a folder of USER. Raises Failed if USER has put a link there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        folder = os.open(path, os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        raise Failed(f"{path} is a link or a file; remove it.") from None
    os.fchmod(folder, 0o750)
    shutil.chown(folder, USER, USER)
    os.close(folder)


def commit() -> str:
    """Return the commit of this checkout. Changes without a commit do not count."""
    return run("git", "-c", f"safe.directory={HERE}", "-C", HERE, "rev-parse", "HEAD").strip()


def has_kvci() -> bool:
    mark = VENV / ".commit"
    at = mark.read_text() if mark.is_file() else ""
    return at == commit() and bool(run(COMMAND, "--version"))


def install_kvci() -> None:
    if sys.version_info < PYTHON:
        raise Failed("kvci needs Python 3.11; use Ubuntu 24.04, or install a newer python3.")
    run("make", "-C", HERE, "install", "PYTHON=python3", f"VENV={VENV}")
    COMMAND.unlink(missing_ok=True)
    COMMAND.symlink_to(VENV / "bin" / "kvci")
    (VENV / ".commit").write_text(commit())


def namespaces_allowed() -> bool:
    """True if bubblewrap may create namespaces. A kernel without the setting allows this."""
    return not NAMESPACES.exists() or NAMESPACES.read_text().strip() == "0"


def main() -> None:
    parser = arguments(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    given = parser.parse_args()
    if os.geteuid() and not given.dry_run:
        parser.error("run this script as root: sudo python3 ci/runner/box.py")
    words = ["useradd", "--system", "--create-home", "--home-dir", str(HOME), "--shell"]
    words += ["/bin/bash", USER]
    runs = HOME / "runs"
    steps = [
        Step(
            f"packages {' '.join(PACKAGES)}, and Docker",
            lambda: not missing_packages(),
            install,
            "apt-get install",
        ),
        Step(f"user {USER} with {HOME}", user_exists, lambda: _run(*words), " ".join(words)),
        Step(
            f"{USER} may use Docker",
            in_docker,
            lambda: _run("usermod", "--append", "--groups", "docker", USER),
            f"usermod; {USER} is then as powerful as root",
        ),
        Step(
            f"{runs}, for runs that continue over several jobs",
            lambda: is_private(runs),
            lambda: make_private(runs),
        ),
        Step(f"{COMMAND} of this checkout", has_kvci, install_kvci, f"make -C {HERE} install"),
        Step(
            "NVIDIA's driver answers",
            lambda: bool(run("nvidia-smi", "--list-gpus", limit_s=60).strip()),
            no_driver,
            "nothing: install NVIDIA's driver",
        ),
    ]
    if NAMESPACES.exists():
        line = f"kernel.{NAMESPACES.name} = 0\n"
        steps.insert(3, file(SYSCTL, line))
        steps.insert(
            4,
            Step(
                "bubblewrap may create namespaces",
                namespaces_allowed,
                lambda: _run("sysctl", "--load", str(SYSCTL)),
                f"sysctl --load {SYSCTL}",
            ),
        )
    apply(steps, given.dry_run)


def _run(*words: str) -> None:
    run(*words)


def no_driver() -> None:
    raise Failed("nvidia-smi does not answer; install NVIDIA's driver (ubuntu-drivers install).")


if __name__ == "__main__":
    main()
