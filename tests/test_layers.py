"""Names are unique, and imports go one way: down the table of kvci/README.md."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = ("kvci", "ci")
LINT = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]


def layers() -> list[set[str]]:
    """The layers of the import contract, the highest first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = project["tool"]["importlinter"]["contracts"]
    return [set(layer.split(" | ")) for layer in contract["layers"]]


def modules() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def test_map_and_import_contract_agree() -> None:
    rows = re.findall(
        r"^\| (\d+) \| `(\w+)(?:\.py|/)` \|", (ROOT / "kvci" / "README.md").read_text(), re.M
    )
    by_layer: dict[int, set[str]] = {}
    for number, module in rows:
        by_layer.setdefault(int(number), set()).add(module)
    assert [by_layer[number] for number in sorted(by_layer, reverse=True)] == layers()


@pytest.mark.parametrize(
    ("module", "imported", "kept"),
    [("errors.py", "kvci.cli", False), ("stats/paired.py", "kvci.taxonomy", False), ("", "", True)],
)
def test_upward_import_breaks_contract(
    module: str, imported: str, kept: bool, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "kvci", tmp_path / "kvci", ignore=shutil.ignore_patterns("*.gguf"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    if module:
        with (tmp_path / "kvci" / module).open("a") as file:
            file.write(f"\nimport {imported}\n")
    done = subprocess.run(
        LINT, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert (done.returncode == 0) is kept, done.stdout


def test_no_two_modules_share_a_name() -> None:
    names = Counter(path.stem for path in modules() if path.stem != "__init__")
    folders = {path.name for path in (ROOT / "kvci").iterdir() if path.is_dir()}
    assert [name for name, count in names.items() if count > 1] == []
    assert folders & {path.stem for path in modules() if path.parent.name != path.stem} == set()


def test_no_two_classes_share_a_name() -> None:
    names = Counter(
        node.name
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []
