"""What the guides quote is what kvci says."""

import re

import pytest

from tests.conftest import ROOT

GITS = {"without workflows permission"}


def spoken() -> str:
    """All of the source, its texts in one piece."""
    folders = (ROOT / "kvci", ROOT / "ci" / "runner")
    text = "\n".join(path.read_text() for one in folders for path in sorted(one.rglob("*.py")))
    return " ".join(re.sub(r'"\s*\n\s*f?"', "", text).split())


@pytest.mark.parametrize("page", ["ci/README.md", "ci/runner/README.md"])
def test_each_message_that_a_page_explains_is_one_that_kvci_says(page: str) -> None:
    said, wrong = spoken(), []
    rows = [line for line in (ROOT / page).read_text().splitlines() if line.startswith("| ")]
    column = 2 if page == "ci/README.md" else 1
    messages = [m for row in rows for m in re.findall(r"`([^`]+)`", row.split("|")[column])]
    assert len(messages) > 4
    for message in messages:
        parts = [part.strip() for part in re.split(r"\.\.\.|\b\d{3}\b", message)]
        if message not in GITS and not all(part in said for part in parts):
            wrong.append(message)
    assert not wrong
