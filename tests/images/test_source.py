"""Tests where the repositories of built images come from, without a network."""

import subprocess
from pathlib import Path

import git
import pytest

from kvci.errors import UserError
from kvci.images.image_build import _source


def test_a_repository_is_a_folder_or_a_tar(tmp_path: Path) -> None:
    bare = tmp_path / "owner__name.git"
    assert _source("owner/name", None, tmp_path) == "https://github.com/owner/name"
    with pytest.raises(UserError, match="has neither"):
        _source("owner/name", tmp_path, tmp_path / "scratch")
    git.Repo.init(bare, bare=True)
    assert _source("owner/name", tmp_path, tmp_path / "scratch") == bare.as_uri()
    packed = tmp_path / "other__name.git.tar"
    subprocess.run(["tar", "-cf", packed, "-C", bare, "."], check=True)
    for folder in ("scratch", "again"):
        (tmp_path / folder).mkdir()
    found = _source("other/name", tmp_path, tmp_path / "scratch")
    assert git.Repo(found.removeprefix("file://")).bare
    packed.write_bytes(b"junk")
    with pytest.raises(UserError, match="is not a tar file"):
        _source("other/name", tmp_path, tmp_path / "again")
