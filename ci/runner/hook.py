"""Before each job: what an earlier one left goes, and a disk without room ends the job at once.

The runner's user runs it. What fails here fails the job, with the last line as its reason.
"""

import os
import shutil
import tempfile
import time
from pathlib import Path

from steps import Failed, Step, arguments, take

FREE_BYTES = 20 << 30
STALE_S = 86_400.0


def left(workspace: Path, temporary: Path) -> list[Path]:
    """What is to go. The workspace stays, empty; so do files of others and of today, and kvci's
    locks: one that is removed while it is held is held no more."""
    found = sorted(workspace.glob("*")) if workspace.is_dir() else []
    for path in sorted(temporary.iterdir()):
        try:
            told = path.lstat()
        except OSError:
            continue
        lock = path.match("kvci-*.lock")
        if not lock and told.st_uid == os.geteuid() and time.time() - told.st_mtime > STALE_S:
            found.append(path)
    return found


def gone(path: Path) -> Step:
    def remove() -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        if os.path.lexists(path):
            raise Failed(f"{path} is another user's; root has to remove it.")

    return Step(f"{path} is gone", lambda: not os.path.lexists(path), remove, "remove it")


def room(workspace: Path) -> Step:
    there = next(path for path in (workspace, *workspace.parents) if path.exists())

    def none() -> None:
        raise Failed(
            f"{shutil.disk_usage(there).free >> 30} GiB are free for {workspace}, and a run needs "
            f"{FREE_BYTES >> 30}; make room (kvci images prune, old models, or fewer days for "
            "clean.py)."
        )

    return Step(
        f"{FREE_BYTES >> 30} GiB are free for {workspace}",
        lambda: shutil.disk_usage(there).free >= FREE_BYTES,
        none,
        "nothing: make room",
    )


def main() -> None:
    given = arguments(__doc__).parse_args()
    workspace = Path(os.environ["GITHUB_WORKSPACE"])
    paths = left(workspace, Path(tempfile.gettempdir()))
    take([*map(gone, paths), room(workspace)], given.dry_run)


if __name__ == "__main__":
    main()
