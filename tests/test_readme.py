"""The README's links lead somewhere, its commands exist, and its picture is a result."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from kvci.cli import main
from kvci.taxonomy import NAMES, Class
from tests.conftest import ROOT

PAGES = sorted(
    path
    for path in (ROOT / "README.md", *ROOT.glob("kvci/**/*.md"), *ROOT.glob("ci/**/*.md"))
    if ".venv" not in path.parts
)
CODE = re.compile(r"```.*?```|`[^`]+`", re.DOTALL)
VERB = re.compile(r"\bkvci ((?:ci |images )?[a-z]+)\b")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        assert re.match(r"https?://", link) or (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_verbs_on_pages_exist(page: Path) -> None:
    code = "\n".join(CODE.findall(page.read_text()))
    for verb in set(VERB.findall(code)):
        done = CliRunner().invoke(main, [*verb.split(), "--help"])
        assert done.exit_code == 0, verb


FILE = re.compile(r"`([\w./-]+\.(?:py|md|toml|j2|yml|svg|gguf))`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_named_on_pages_exist(page: Path) -> None:
    places = [page.parent, ROOT, ROOT / "kvci", ROOT / "kvci" / "run"]
    places += [ROOT / "ci" / name for name in ("", "adopt", "experiments")]
    named = [name for name in FILE.findall(page.read_text()) if "NAME" not in name]
    assert [name for name in named if not any((place / name).exists() for place in places)] == []


CLASS = re.compile(rf"(?<![\w-])({'|'.join(Class)})\b(?!`| \(?({'|'.join(NAMES.values())}))")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_shows_a_bare_class(page: Path) -> None:
    text = " ".join(re.sub(r"```.*?```|`[^`]+`", "", page.read_text(), flags=re.DOTALL).split())
    assert [text[one.start() : one.end() + 30] for one in CLASS.finditer(text)] == []


def test_picture_shows_known_answer() -> None:
    text = " ".join(ElementTree.parse(ROOT / "ci" / "demo.svg").getroot().itertext())
    for shown in ("20/20, the baseline", "non-inferior within 25 points", "harm shown"):
        assert shown in text
