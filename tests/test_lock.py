"""The lock of the workflows' jobs fits pyproject.toml, and installs."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

LOCK = ROOT / "ci" / "requirements.txt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PIN = re.compile(
    r"(?P<name>[\w.-]+)==(?P<version>\S+)(?: ; (?P<marker>.+?))?"
    r"(?P<hashes>(?: \\\n    --hash=\S+)+)\n"
    r"(?P<via>(?:    # .*\n)+)"
)
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")
LINUX: dict[str, str] = {"sys_platform": "linux", "platform_machine": "x86_64"}


def asked(project: dict[str, Any]) -> list[Requirement]:
    """Return what the jobs need: kvci's dependencies and its build backend."""
    table = project["project"]
    lines = [*table["dependencies"], *table["optional-dependencies"]["build"]]
    return [Requirement(line) for line in lines]


def problems(project: dict[str, Any], lock: str) -> list[str]:
    """Return one line for each requirement that the lock does not fit, on every Python."""
    pins = [match.groupdict() for match in PIN.finditer(lock)]
    direct = {pin["name"] for pin in pins if "kvci (pyproject.toml)" in pin["via"]}
    found = [f"{name} is not asked for" for name in direct - {_name(one) for one in asked(project)}]
    for version in ("3.11", "3.12", "3.13"):
        here = LINUX | {"python_version": version, "python_full_version": f"{version}.0"}
        locked = {
            pin["name"]: pin["version"]
            for pin in pins
            if not pin["marker"] or Marker(pin["marker"]).evaluate(here)
        }
        for one in asked(project):
            if one.marker and not one.marker.evaluate(here):
                continue
            if not (has := locked.get(_name(one))) or has not in one.specifier:
                found.append(f"{one} on Python {version}: the lock has {has}")
    return found


def _name(one: Requirement) -> str:
    return canonicalize_name(one.name)


def changed(**dependencies: str | None) -> dict[str, Any]:
    """Return pyproject.toml with other requirements; None removes one."""
    lines = [
        line
        for line in PROJECT["project"]["dependencies"]
        if Requirement(line).name not in dependencies
    ]
    lines += [f"{name}{range_}" for name, range_ in dependencies.items() if range_ is not None]
    return PROJECT | {"project": PROJECT["project"] | {"dependencies": lines}}


def test_lock_fits_pyproject() -> None:
    assert problems(PROJECT, LOCK.read_text()) == [], "run make lock"
    assert (
        PROJECT["project"]["optional-dependencies"]["build"] == PROJECT["build-system"]["requires"]
    )


@pytest.mark.parametrize(
    "project",
    [
        changed(httpx=">=99"),
        changed(click=">=8.2,<8.2.1"),
        changed(attrs2=""),
        changed(docker=None),
    ],
    ids=["raised", "narrowed", "added", "removed"],
)
def test_changed_pyproject_without_new_lock_is_found(project: dict[str, Any]) -> None:
    assert problems(project, LOCK.read_text())


def test_every_pin_has_hashes_and_names_no_host() -> None:
    text = LOCK.read_text()
    pins = list(PIN.finditer(text))
    assert len(pins) == len(re.findall(r"^\w", text, re.MULTILINE)) > 50
    for pin in pins:
        assert set(pin["hashes"].replace("\\", "").split()) <= {*HASH.findall(pin["hashes"])}
    assert "://" not in text and "index" not in text


def test_jobs_install_only_what_the_lock_has() -> None:
    """Every job that installs kvci uses make install, and so does the script of a runner."""
    for path in (*(ROOT / ".github").rglob("*.yml"), *(ROOT / "ci").rglob("*.yml")):
        assert "pip install" not in path.read_text(), path
    assert "pip" not in (ROOT / "ci" / "runner" / "box.py").read_text()
    makefile = (ROOT / "Makefile").read_text()
    recipe = makefile.partition("\ninstall:\n")[2].partition("\n\n")[0]
    first, second = (line.split("pip ")[1] for line in recipe.splitlines() if "bin/pip" in line)
    assert {"--require-hashes", "--only-binary", "ci/requirements.txt"} <= {*first.split()}
    assert {"--no-deps", "--no-build-isolation"} <= {*second.split()}


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_locked_files_install_in_a_new_environment(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    words = ["make", "install", f"VENV={venv}", f"PYTHON={sys.executable}"]
    subprocess.run(words, cwd=ROOT, check=True, timeout=1000)
    subprocess.run([venv / "bin" / "pip", "check"], check=True, timeout=60)
    subprocess.run([venv / "bin" / "kvci", "--version"], check=True, timeout=60)


@pytest.mark.long
def test_make_lock_changes_nothing(tmp_path: Path) -> None:
    before = LOCK.read_bytes()
    subprocess.run(["make", "lock"], cwd=ROOT, check=True, timeout=300)
    assert LOCK.read_bytes() == before
