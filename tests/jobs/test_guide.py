"""Every message that a guide quotes exists in kvci."""

import re

import pytest

from tests.conftest import ROOT

MESSAGES_OF_GIT = {"without workflows permission"}


def source() -> str:
    """Return all source files as one line, with adjacent string literals joined."""
    folders = (ROOT / "kvci", ROOT / "ci" / "runner")
    text = "\n".join(path.read_text() for one in folders for path in sorted(one.rglob("*.py")))
    return " ".join(re.sub(r'"\s*\n\s*f?"', "", text).split())


@pytest.mark.parametrize("page", ["ci/README.md", "ci/runner/README.md"])
def test_guide_quotes_only_messages_of_kvci(page: str) -> None:
    text, wrong = source(), []
    rows = [line for line in (ROOT / page).read_text().splitlines() if line.startswith("| ")]
    column = 2 if page == "ci/README.md" else 1
    messages = [m for row in rows for m in re.findall(r"`([^`]+)`", row.split("|")[column])]
    assert len(messages) > 4
    for message in messages:
        parts = [part.strip() for part in re.split(r"\.\.\.|\b\d{3}\b", message)]
        if message not in MESSAGES_OF_GIT and not all(part in text for part in parts):
            wrong.append(message)
    assert not wrong
