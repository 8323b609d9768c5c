"""When a disk counts as full: too few free bytes, or too few free inodes for new files."""

import os

MIN_FREE_BYTES = 1 << 30
"""A disk counts as full if its free space is below this and below a twentieth of its size."""
MIN_FREE_FILES = 10_000
"""A disk also counts as full if its free inodes are below this and below a twentieth of all."""


def is_full(disk: os.statvfs_result) -> bool:
    """True if the disk with this state has too little space for a sandbox that writes."""
    free, size = (blocks * disk.f_frsize for blocks in (disk.f_bavail, disk.f_blocks))
    return has_too_little(free, size, disk.f_favail, disk.f_files)


def has_too_little(free_bytes: int, size_bytes: int, free_files: int, max_files: int) -> bool:
    """True if a disk of this size has too few free bytes or inodes.

    A file system without a limit of inodes reports 0 for both `free_files` and `max_files`.
    """
    min_bytes = min(MIN_FREE_BYTES, size_bytes // 20)
    return free_bytes < min_bytes or free_files < min(MIN_FREE_FILES, max_files // 20)
