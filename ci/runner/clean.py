"""Remove runs that nobody has touched for long; their evidence lies in artifacts and releases.

A run that goes on, night after night or now, is touched and stays. What the runner and these
scripts say goes to systemd's journal, which rotates itself.
"""

import contextlib
import fcntl
import os
import shutil
import time
from pathlib import Path

from steps import Step, arguments, take

DAYS = 60.0


def idle_days(run: Path) -> float:
    """Since the newest change in the folder."""
    newest = run.lstat().st_mtime
    for path in run.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # then it was touched just now
            newest = max(newest, path.lstat().st_mtime)
    return (time.time() - newest) / 86_400


def in_use(run: Path) -> bool:
    """A kvci process holds the lock of the folder, or of one of its shards."""
    for lock in run.rglob(".lock"):
        file = os.open(lock, os.O_RDONLY)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(file)
    return False


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--days", type=float, default=DAYS)
    given = parser.parse_args()
    old = [
        run
        for run in sorted(given.runs.iterdir())
        if (run / "spec.json").is_file() or list(run.glob("shard-*/spec.json"))
        if idle_days(run) > given.days and not in_use(run)
    ]
    take([removed(run) for run in old], given.dry_run)


def removed(run: Path) -> Step:
    return Step(f"{run} is gone", lambda: not run.exists(), lambda: shutil.rmtree(run), "remove it")


if __name__ == "__main__":
    main()
