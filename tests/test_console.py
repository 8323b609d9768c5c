"""Text from outside is shown as it is, and never as rich's markup."""

import ast
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.table import Table

from kvci.console import Terminal
from kvci.run.progress import Progress
from kvci.run.summary import infrastructure_lines, summarize, table
from kvci.taxonomy import Class
from tests.conftest import ROOT
from tests.run.made import outcome

MARKUP = ["[/INST]", "[red]no[/red]", "[link=https://x.example]", "/a[0]/b", ":warning:", "[bold"]


def terminal() -> Terminal:
    return Terminal(file=io.StringIO(), width=200, force_terminal=True, color_system=None)


def shown(console: Terminal) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("text", MARKUP)
def test_markup_in_a_failure_is_shown(text: str) -> None:
    console = terminal()
    failed = outcome("f16-f16", "a").model_copy(update={"cls": Class.I1, "detail": text})
    for line in infrastructure_lines([failed]):
        console.print(line)
    Progress(console, {"f16-f16": 1}, 1).say(text)
    assert shown(console).count(text) == 2


@pytest.mark.parametrize("text", MARKUP)
def test_markup_in_a_table_is_shown(text: str) -> None:
    console = terminal()
    rows = Table(text, title=text)
    rows.add_row(text)
    console.print(rows)
    console.print(table(summarize(text, {text: 1}, [])))
    console.print(Progress(console, {text: 1}, 1).view())
    assert shown(console).count(text) == 6


def calls() -> Iterator[tuple[Path, str]]:
    """Yield each call in the package: its file, and the name of the called function."""
    for path in sorted((ROOT / "kvci").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield path.relative_to(ROOT), ast.unparse(node.func)


def test_only_one_module_makes_consoles() -> None:
    """Any other console, and rich's own print, would read text as markup."""
    imports = {
        f"{path.relative_to(ROOT)}: {node.module} {alias.name}"
        for path in (ROOT / "kvci").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rich")
        for alias in node.names
        if alias.name in ("Console", "print", "get_console", "inspect", "Markdown", "Prompt")
    }
    assert imports == {"kvci/console.py: rich.console Console"}
    makers = {str(path) for path, name in calls() if name.endswith("from_markup")}
    assert makers == set()
