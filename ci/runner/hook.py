"""Remove leftovers of earlier jobs, and fail the job if the disk is nearly full.

The runner calls this script before each job, as its own user. If the script fails, the job fails,
and the last line of the output gives the reason.
"""

import os
import shutil
import tempfile
import time
from pathlib import Path

from steps import Failed, Step, apply, arguments

FREE_BYTES = 20 << 30
STALE_S = 86_400.0


def leftovers(workspace: Path, temporary: Path) -> list[Path]:
    """Return the paths to remove: the whole workspace, and old files of this user in `temporary`.

    kvci's lock files stay. If a locked file were removed, a second process could get the same lock.
    """
    found = sorted(workspace.glob("*")) if workspace.is_dir() else []
    for path in sorted(temporary.iterdir()):
        try:
            status = path.lstat()
        except OSError:
            continue
        lock = path.match("kvci-*.lock")
        if not lock and status.st_uid == os.geteuid() and time.time() - status.st_mtime > STALE_S:
            found.append(path)
    return found


def removal(path: Path) -> Step:
    def remove() -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        if os.path.lexists(path):
            raise Failed(f"{path} belongs to another user; remove it as root.")

    return Step(f"{path} is removed", lambda: not os.path.lexists(path), remove, "remove it")


def free_space(workspace: Path) -> Step:
    existing = next(path for path in (workspace, *workspace.parents) if path.exists())

    def refuse() -> None:
        raise Failed(
            f"{shutil.disk_usage(existing).free >> 30} GiB are free for {workspace}, but a run "
            f"needs {FREE_BYTES >> 30}; free space with kvci images prune, by deleting old models, "
            "or with clean.py and fewer --days."
        )

    return Step(
        f"{FREE_BYTES >> 30} GiB are free for {workspace}",
        lambda: shutil.disk_usage(existing).free >= FREE_BYTES,
        refuse,
        "nothing: free space first",
    )


def main() -> None:
    given = arguments(__doc__).parse_args()
    workspace = Path(os.environ["GITHUB_WORKSPACE"])
    paths = leftovers(workspace, Path(tempfile.gettempdir()))
    apply([*map(removal, paths), free_space(workspace)], given.dry_run)


if __name__ == "__main__":
    main()
