"""Tests documents and atomic writes."""

from pathlib import Path

import pytest

from kvci.errors import UserError
from kvci.files import Document, read_toml, write_atomic
from kvci.images.recipe import recipes


class Note(Document):
    text: str


def test_document_is_read_back_and_validated(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "note.json"
    Note(text="a").write(path)
    assert Note.read(path) == Note(text="a")
    assert [file.name for file in path.parent.iterdir()] == ["note.json"]
    path.write_text('{"text": "a", "more": 1}')
    with pytest.raises(UserError, match="more: Extra inputs"):
        Note.read(path)
    path.write_text('{"text": ')
    with pytest.raises(UserError, match="is not valid"):
        Note.read(path)
    with pytest.raises(UserError, match="does not exist"):
        Note.read(tmp_path / "none.json")


def test_failed_write_leaves_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"


@pytest.mark.parametrize("content", [b"caf\xe9 = 1", b"a = ["])
def test_file_that_is_not_toml_is_explained(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "nightly.toml"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not TOML"):
        read_toml(path, "an example")
    with pytest.raises(UserError, match="is not valid"):
        recipes(path)
