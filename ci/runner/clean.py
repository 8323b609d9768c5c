"""Remove runs that have not changed for a long time.

Their evidence is in artifacts and releases. A run stays if it is in progress or continues every
night, because it changes.
"""

import contextlib
import fcntl
import os
import shutil
import time
from pathlib import Path

from steps import Step, apply, arguments

DAYS = 60.0


def idle_days(run: Path) -> float:
    """Return the number of days since the newest change in the folder."""
    newest = run.lstat().st_mtime
    for path in run.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # the file was removed meanwhile
            newest = max(newest, path.lstat().st_mtime)
    return (time.time() - newest) / 86_400


def in_use(run: Path) -> bool:
    """True if a kvci process has locked the folder or one of its shards."""
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
    parser.add_argument("--runs", type=Path, required=True, help="the folder of all runs")
    parser.add_argument(
        "--days",
        type=float,
        default=DAYS,
        help="remove runs that are unchanged for so many days [60]",
    )
    given = parser.parse_args()
    old = [
        run
        for run in sorted(given.runs.iterdir())
        if (run / "spec.json").is_file() or list(run.glob("shard-*/spec.json"))
        if idle_days(run) > given.days and not in_use(run)
    ]
    apply([removal(run) for run in old], given.dry_run)


def removal(run: Path) -> Step:
    return Step(
        f"{run} is removed", lambda: not run.exists(), lambda: shutil.rmtree(run), "remove it"
    )


if __name__ == "__main__":
    main()
