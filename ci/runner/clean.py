"""Remove runs that have not changed for a long time.

Their evidence is in artifacts and releases. A run stays if it is in progress or continues every
night, because it changes. The script opens no file except kvci's own lock files: a run that was
killed leaves a folder in which a model may have made anything.
"""

import fcntl
import os
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from steps import Failed, Step, apply, arguments, removal, shown

DAYS = 60.0
SCRATCH = ".kvci-scratch"
"""The name of the folder in which models work. What is in it says nothing about the run's age."""
SEARCH_S = 600.0


def is_run(path: Path) -> bool:
    return (path / "spec.json").is_file() or any(path.glob("shard-*/spec.json"))


def changed_since(run: Path, time_s: float) -> bool:
    """True if a file of the run is newer than this time. Files that cannot be seen do not count."""
    words = ["find", str(run), "-name", SCRATCH, "-prune", "-o", "-newermt", f"@{time_s}"]
    done = subprocess.run([*words, "-print", "-quit"], capture_output=True, timeout=SEARCH_S)
    return bool(done.stdout)


def in_use(run: Path) -> bool:
    """True if a kvci process has locked the folder or one of its shards."""
    for lock in (run / ".lock", *run.glob("shard-*/.lock")):
        try:
            file = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            continue
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise Failed(f"{shown(lock)} is not a file of kvci; remove it.")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(file)
    return False


def removals(runs: Path, days: float) -> Iterator[Step]:
    """Yield the step that removes a run, for each old run."""
    before_s = time.time() - days * 86_400
    for run in sorted(runs.iterdir()):
        try:
            if is_run(run) and not changed_since(run, before_s) and not in_use(run):
                yield removal(run)
        except (OSError, subprocess.TimeoutExpired, Failed) as error:
            yield _unknown(run, str(error))


def _unknown(run: Path, why: str) -> Step:
    def fail() -> None:
        raise Failed(f"{shown(run)} cannot be checked, so it stays: {why}")

    return Step(f"{shown(run)} can be checked", lambda: False, fail, "nothing: see why")


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
    apply(removals(given.runs, given.days), given.dry_run, keep_going=True)


if __name__ == "__main__":
    main()
