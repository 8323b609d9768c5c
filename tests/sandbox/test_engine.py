"""When the engine's disk is full."""

import os

import pytest

from kvci.sandbox import engine


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
