"""Remove leftovers of earlier jobs, and fail the job if the disk is nearly full.

The runner calls this script before each job, as its own user. If the script fails, the job fails,
and the lines that begin with `failed` give the reasons.
"""

import os
import shutil
import tempfile
import time
from pathlib import Path

from steps import Failed, Step, apply, arguments, removal

FREE_BYTES = 20 << 30
STALE_S = 86_400.0


def leftovers(workspace: Path, temporary: Path) -> list[Path]:
    """Return the paths to remove: the whole workspace, and old files of this user in `temporary`.

    kvci's lock files stay. If a locked file were removed, a second process could get the same lock.
    """
    if workspace.is_symlink():
        found = [workspace]
    else:
        found = sorted(workspace.iterdir()) if workspace.is_dir() else []
    for path in sorted(temporary.iterdir()):
        try:
            status = path.lstat()
        except OSError:
            continue
        lock = path.match("kvci-*.lock")
        if not lock and status.st_uid == os.geteuid() and time.time() - status.st_mtime > STALE_S:
            found.append(path)
    return found


def free_space(workspace: Path) -> Step:
    def free_bytes() -> int:
        existing = next(path for path in (workspace, *workspace.parents) if path.exists())
        return shutil.disk_usage(existing).free

    def refuse() -> None:
        raise Failed(
            f"{free_bytes() >> 30} GiB are free for {workspace}, but a run needs "
            f"{FREE_BYTES >> 30}; free space with kvci images prune, by deleting old models, or "
            "with clean.py and fewer --days."
        )

    return Step(
        f"{FREE_BYTES >> 30} GiB are free for {workspace}",
        lambda: free_bytes() >= FREE_BYTES,
        refuse,
        "nothing: free space first",
    )


def main() -> None:
    given = arguments(__doc__).parse_args()
    workspace = Path(os.environ["GITHUB_WORKSPACE"])
    paths = leftovers(workspace, Path(tempfile.gettempdir()))
    apply([*map(removal, paths), free_space(workspace)], given.dry_run, keep_going=True)


if __name__ == "__main__":
    main()
