"""Repositories for images that are built without a network."""

import subprocess
from pathlib import Path

import git
import pytest

from kvci.errors import UserError
from kvci.images.build import _source


def test_a_repository_is_a_bare_folder_or_one_in_a_tar_file(tmp_path: Path) -> None:
    place = tmp_path / "owner__name.git"
    assert _source("owner/name", None, tmp_path) == "https://github.com/owner/name"
    with pytest.raises(UserError, match="has neither"):
        _source("owner/name", tmp_path, tmp_path / "scratch")
    git.Repo.init(place, bare=True)
    assert _source("owner/name", tmp_path, tmp_path / "scratch") == place.as_uri()
    packed = tmp_path / "other__name.git.tar"
    subprocess.run(["tar", "-cf", packed, "-C", place, "."], check=True)
    for folder in ("scratch", "again"):
        (tmp_path / folder).mkdir()
    found = _source("other/name", tmp_path, tmp_path / "scratch")
    assert git.Repo(found.removeprefix("file://")).bare
    packed.write_bytes(b"junk")
    with pytest.raises(UserError, match="is no tar file"):
        _source("other/name", tmp_path, tmp_path / "again")
