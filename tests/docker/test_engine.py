"""Tests when the engine's disk counts as full, and which API version kvci uses."""

import os
from types import SimpleNamespace

import docker
import pytest

from kvci.docker import engine
from kvci.images.history import _commit_config


def stats(free_blocks: int, files: int, free_files: int) -> os.statvfs_result:
    """Return the state of a disk of 100 GB with blocks of 4 KiB."""
    return os.statvfs_result(
        (4096, 4096, 25_000_000, free_blocks, free_blocks, files, free_files, free_files, 0, 255)
    )


@pytest.mark.parametrize(
    ("disk", "full"),
    [
        (stats(20_000_000, 6_000_000, 5_000_000), False),
        (stats(1000, 6_000_000, 5_000_000), True),
        (stats(20_000_000, 6_000_000, 12), True),
        (stats(20_000_000, 0, 0), False),  # file systems like btrfs have no limit of inodes
        (None, False),
    ],
)
def test_disk_is_full_without_bytes_or_inodes(
    disk: os.statvfs_result | None, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "disk_stats", lambda: disk)
    assert engine.disk_full() is full


@pytest.mark.parametrize(("newest", "used"), [("1.43", "1.43"), ("1.51", "1.51"), ("1.54", "1.51")])
def test_newer_engine_is_used_with_known_api(
    newest: str, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From version 1.52 on, the API leaves out unset fields and changes `system df`."""

    def from_env(version: str = newest, **_: object) -> object:
        return SimpleNamespace(api=SimpleNamespace(api_version=version), ping=lambda: True)

    monkeypatch.setattr(docker, "from_env", from_env)
    assert engine._connection().api.api_version == used


def test_unset_image_settings_become_defaults() -> None:
    settings = _commit_config(SimpleNamespace(id="x", attrs={"Config": {"Labels": None}}))
    assert (settings["Entrypoint"], settings["Cmd"], settings["User"]) == ([], ["/bin/bash"], "")


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["name=seccomp,profile=default"], True),
        (["name=apparmor", "name=seccomp,profile=builtin", "name=cgroupns"], True),
        (["name=apparmor"], False),
        ([], False),
    ],
)
def test_engine_without_system_call_filter_is_found(options: list[str], found: bool) -> None:
    assert engine.has_seccomp(options) is found
