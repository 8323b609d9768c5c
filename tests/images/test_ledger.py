"""Tests the ledger of images."""

import json
from pathlib import Path

from kvci.images.ledger import Entry, LedgerFile


def test_ledger_of_first_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "images.json"
    path.write_text(json.dumps({"images": [{"image": "a:1", "state": "let go", "why": "old"}]}))
    ledger = LedgerFile(path)
    assert ledger.entries() == [Entry(image="a:1", state="evicted", why="old")]
    ledger.change("a:1", "needed", "")
    assert "let go" not in path.read_text()
