"""Before each job: what an earlier one left goes, and a disk without room ends the job at once.

The runner's user runs it. What fails here fails the job, with the last line as its reason.
"""

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

FREE_BYTES = 20 << 30
STALE_S = 86_400.0


def clean(workspace: Path, temporary: Path) -> list[str]:
    """What was removed. The workspace stays, empty; so do files of others and of today, and kvci's
    locks: one that is removed while it is held is held no more."""
    removed = []
    for path in sorted(workspace.glob("*")) if workspace.is_dir() else ():
        remove(path)
        removed.append(str(path))
    for path in sorted(temporary.iterdir()):
        try:
            found = path.lstat()
        except OSError:
            continue
        lock = path.match("kvci-*.lock")
        if not lock and found.st_uid == os.geteuid() and time.time() - found.st_mtime > STALE_S:
            remove(path)
            removed.append(str(path))
    return removed


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    if path.exists():
        sys.exit(f"{path} is another user's; root has to remove it.")


def main() -> None:
    workspace = Path(os.environ["GITHUB_WORKSPACE"])
    for path in clean(workspace, Path(tempfile.gettempdir())):
        print(f"removed {path}")
    there = next(path for path in (workspace, *workspace.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < FREE_BYTES:
        sys.exit(
            f"{free >> 30} GiB are free for {workspace}, and a run needs {FREE_BYTES >> 30}; make "
            "room (kvci images prune, or fewer days for clean.py)."
        )


if __name__ == "__main__":
    main()
