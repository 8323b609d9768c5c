"""What all scripts here are made of: steps that look first, act only then, and look again.

Python's own library alone: these run before kvci is installed.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path


class Failed(Exception):
    """What went wrong, and the remedy."""


@dataclass(frozen=True)
class Step:
    """One thing that shall be so on this machine."""

    what: str
    done: Callable[[], bool]
    """Looks and changes nothing. May raise Failed, to say more than no."""
    do: Callable[[], None]
    would: str = ""
    """What `do` does, for a dry run."""


def arguments(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--dry-run", action="store_true", help="say what is missing, change nothing"
    )
    return parser


def take(steps: Iterable[Step], dry_run: bool) -> None:
    """Each step that is not done yet. Ends the process with 1 if one fails."""
    try:
        for step in steps:
            if _done(step):
                print(f"is so      {step.what}")
            elif dry_run:
                print(f"would do   {step.what}" + (f": {step.would}" if step.would else ""))
            else:
                step.do()
                if not step.done():
                    raise Failed(f"{step.what}: done, and yet it is not so.")
                print(f"done       {step.what}", flush=True)
    except Failed as error:
        print(f"failed     {error}", file=sys.stderr)
        sys.exit(1)


def _done(step: Step) -> bool:
    """What is wrong before a step is what the step is for."""
    try:
        return step.done()
    except (Failed, PermissionError):  # who may not look, in a dry run, is told what it would do
        return False


def run(*words: str | Path, cwd: Path | None = None) -> str:
    """A command's output. Raises Failed with its last lines."""
    line = shlex.join(map(str, words))
    try:
        done = subprocess.run(
            [str(word) for word in words], cwd=cwd, capture_output=True, text=True, errors="replace"
        )
    except OSError as error:
        raise Failed(f"{words[0]} cannot be run ({error.strerror}); install it.") from None
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-30:])
        raise Failed(f"{line} ended with {done.returncode}:\n{said}")
    return done.stdout


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """A file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.chmod(mode)
    part.rename(path)


def file(path: Path, text: str, mode: int = 0o644) -> Step:
    """A file with this content and mode."""

    def done() -> bool:
        return path.is_file() and path.read_text() == text and path.stat().st_mode & 0o777 == mode

    return Step(f"{path}", done, lambda: write(path, text, mode), f"{len(text.splitlines())} lines")
