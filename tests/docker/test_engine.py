"""When the engine's disk is full."""

import os
from types import SimpleNamespace

import docker
import pytest

from kvci.docker import engine
from kvci.images.history import _commit_config


def disk(free_blocks: int, files: int, free_files: int) -> os.statvfs_result:
    """100 GB in blocks of 4 KiB."""
    return os.statvfs_result(
        (4096, 4096, 25_000_000, free_blocks, free_blocks, files, free_files, free_files, 0, 255)
    )


@pytest.mark.parametrize(
    ("there", "full"),
    [
        (disk(20_000_000, 6_000_000, 5_000_000), False),
        (disk(1000, 6_000_000, 5_000_000), True),
        (disk(20_000_000, 6_000_000, 12), True),
        (disk(20_000_000, 0, 0), False),  # btrfs and others have no such limit
        (None, False),
    ],
)
def test_room_is_for_bytes_and_for_files(
    there: os.statvfs_result | None, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "room", lambda: there)
    assert engine.full() is full


@pytest.mark.parametrize(
    ("newest", "spoken"), [("1.43", "1.43"), ("1.51", "1.51"), ("1.54", "1.51")]
)
def test_an_engine_newer_than_kvci_is_asked_as_one_that_it_knows(
    newest: str, spoken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 1.52 on it leaves out what it has not set, and `system df` has another shape."""

    def from_env(version: str = newest, **_: object) -> object:
        return SimpleNamespace(api=SimpleNamespace(api_version=version), ping=lambda: True)

    monkeypatch.setattr(docker, "from_env", from_env)
    assert engine._connection().api.api_version == spoken


def test_what_an_image_does_not_set_is_nothing() -> None:
    said = _commit_config(SimpleNamespace(id="x", attrs={"Config": {"Labels": None}}))
    assert (said["Entrypoint"], said["Cmd"], said["User"]) == ([], ["/bin/bash"], "")
