"""Tests documents and atomic writes."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from kvci import host
from kvci.errors import UserError
from kvci.files import Document, open_lock, read_toml, write_atomic
from kvci.images import locks
from kvci.images.recipe import recipes
from kvci.rundir.directory import RunDirectory


class Note(Document):
    text: str


def test_document_is_read_back_and_validated(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "note.json"
    Note(text="a").write(path)
    assert Note.read(path) == Note(text="a")
    assert [file.name for file in path.parent.iterdir()] == ["note.json"]
    path.write_text('{"text": "a", "more": 1}')
    with pytest.raises(UserError, match="field more does not exist"):
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


@pytest.mark.parametrize("content", [b"caf\xe9 = 1", b"a = [", b"a = 1" + b"0" * 5000])
def test_file_that_is_not_toml_is_explained(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "nightly.toml"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not TOML"):
        read_toml(path, "an example")
    with pytest.raises(UserError, match="is not valid"):
        recipes(path)


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def a_link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [a_fifo, a_link, a_socket, Path.mkdir])
def test_lock_that_is_not_a_file_is_refused(
    make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To open a FIFO could take forever. Each user of the machine can make one in /tmp."""
    make(tmp_path / ".lock")
    monkeypatch.setattr(host, "GPU_LOCK", tmp_path / ".lock")
    monkeypatch.setattr(locks, "FILE", str(tmp_path / ".lock"))
    with pytest.raises(UserError, match="is not a file; remove it"):
        RunDirectory(tmp_path).__enter__()
    with pytest.raises(UserError, match="is not a file; remove it"), host.lock_gpus():
        pass
    with pytest.raises(UserError, match="is not a file; remove it"):
        locks._file.__wrapped__()


def test_lock_gets_its_mode_whatever_the_umask_is(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        os.close(open_lock(tmp_path / "lock", os.O_RDWR, 0o666))
    finally:
        os.umask(before)
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o666


def test_scratch_that_cannot_be_removed_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of another user may have left it."""
    (tmp_path / ".kvci-scratch").mkdir()
    (tmp_path / "bin").mkdir()
    for name in ("rm", "chmod"):
        (tmp_path / "bin" / name).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for _ in range(2):
        with pytest.raises(UserError, match="remove it as root"):
            RunDirectory(tmp_path).__enter__()
