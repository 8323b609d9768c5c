"""The steps of all scripts in this folder: check, act if necessary, and check again.

Only Python's own library is used, because the scripts run before kvci is installed.
"""

import argparse
import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

LIMIT_S, REMOVE_S = 3600.0, 600.0


class Failed(Exception):
    """A step failed. The text says why, and what to do."""


@dataclass(frozen=True)
class Step:
    """One fact about this machine that a script ensures."""

    name: str
    """The fact in words, for example "/usr/local/bin/kvci of this checkout"."""
    done: Callable[[], bool]
    """A function that checks the fact and changes nothing.

    It returns False, or raises Failed with a reason, if the fact is not true.
    """
    do: Callable[[], None]
    """A function that makes the fact true."""
    plan: str = ""
    """The action of `do` in words, for a dry run."""


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all scripts have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--dry-run", action="store_true", help="print what is missing, and change nothing"
    )
    return parser


def apply(steps: Iterable[Step], dry_run: bool, keep_going: bool = False) -> None:
    """Do each step that is not done yet; exit with 1 if one fails.

    If `keep_going` is true, a step that fails does not keep later steps from being done.
    """
    failed = False
    for step in steps:
        try:
            _apply(step, dry_run)
        except Failed as error:
            print(f"failed     {error}", file=sys.stderr)
            failed = True
            if not keep_going:
                break
    if failed:
        sys.exit(1)


def _apply(step: Step, dry_run: bool) -> None:
    if _done(step):
        print(f"ok         {step.name}")
    elif dry_run:
        print(f"would do   {step.name}" + (f": {step.plan}" if step.plan else ""))
    else:
        step.do()
        if not step.done():
            raise Failed(
                f"{step.name}: the step ran, but its check still fails; check this by hand."
            )
        print(f"done       {step.name}", flush=True)


def _done(step: Step) -> bool:
    """True if the step is done. If its check fails, the step is necessary."""
    try:
        return step.done()
    except (Failed, PermissionError):  # a dry run without root may not read every file
        return False


def run(*words: str | Path, cwd: Path | None = None, limit_s: float = LIMIT_S) -> str:
    """Run a command and return its output.

    Raises Failed with the last lines of the output if the command fails, and Failed if it takes
    longer than `limit_s`.
    """
    line = shlex.join(map(str, words))
    try:
        done = subprocess.run(
            [str(word) for word in words],
            cwd=cwd,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired:
        raise Failed(
            f"{shown(line)} did not end within {limit_s / 60:.0f} minutes; run it by hand to see "
            "why."
        ) from None
    except OSError as error:
        raise Failed(f"{words[0]} cannot be run ({error.strerror}); install it.") from None
    if done.returncode:
        output = "\n".join((done.stdout + done.stderr).strip().splitlines()[-30:])
        raise Failed(f"{shown(line)} exited with {done.returncode}:\n{output}")
    return done.stdout


def removal(path: Path) -> Step:
    """Return the step that removes a file or a folder, whatever is in it.

    chmod and rm open nothing but folders. No tree is too deep for them, and no name is too odd.
    """

    def remove() -> None:
        if not path.is_symlink():  # chmod would follow the link
            with contextlib.suppress(Failed):  # some files may belong to another user
                run("chmod", "-R", "u+rwX", "--", path, limit_s=REMOVE_S)
        try:
            run("rm", "-rf", "--", path, limit_s=REMOVE_S)
        except Failed as error:
            raise Failed(f"{shown(path)} is not removed; remove it as root. {error}") from None

    return Step(f"{shown(path)} is removed", lambda: not os.path.lexists(path), remove, "remove it")


def shown(path: Path | str) -> str:
    """Return a path for a terminal: bytes and characters that are not printable are escaped."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in str(path))


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file as a whole. If that fails, an old file stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.chmod(mode)
    part.rename(path)


def file(path: Path, text: str, mode: int = 0o644) -> Step:
    """Return the step that gives a file this content and mode."""

    def done() -> bool:
        return path.is_file() and path.read_text() == text and path.stat().st_mode & 0o777 == mode

    return Step(f"{path}", done, lambda: write(path, text, mode), f"{len(text.splitlines())} lines")
