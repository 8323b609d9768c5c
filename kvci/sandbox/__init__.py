"""Where the model's commands run: the protocol that every sandbox keeps."""

from dataclasses import dataclass
from typing import Protocol

TREE = "/testbed"
"""The work tree, in every sandbox, as in SWE-bench's images."""

HOG_BYTES = 1 << 30
"""A trial that has written so much, when the disk is full, filled it."""


ARGUMENT_MAX_BYTES = 128 << 10
"""Of one argument, its null byte included (execve(2), MAX_ARG_STRLEN)."""


class SandboxFailed(Exception):
    """The sandbox did not start, or vanished, without the command's own doing."""


class DiffFailed(Exception):
    """The work tree is in a state that gives no diff: the trial's own doing."""


@dataclass(frozen=True)
class Caps:
    """What one sandbox may hold at any moment."""

    memory_mib: int = 4096
    processes: int = 256
    cpus: float = 2.0


@dataclass(frozen=True)
class Limits:
    """What one command may use."""

    wall_s: float = 60.0
    cpu_s: int = 120
    file_mib: int = 256
    """The size of one file it writes."""
    output_mib: int = 64
    """It is stopped when it has written more."""
    kept_bytes: int = 1 << 20
    """Of its output the head and the tail are kept, half each."""


@dataclass(frozen=True)
class Result:
    """What a command did. `output` is stdout and stderr as they came."""

    output: bytes
    code: int
    """The exit status; 128 + N if a signal ended it."""
    timed_out: bool
    output_bytes: int
    """All that was written, kept or not."""
    wall_s: float


def unfit(command: str) -> Result | None:
    """What bash would say of a command that the kernel cannot give it; None of all others."""
    try:
        size = len(command.encode(errors="surrogateescape"))
        why = "Argument list too long" if size >= ARGUMENT_MAX_BYTES else ""
    except UnicodeEncodeError:
        why = "it is no text"
    why = "it holds a null byte" if "\0" in command else why
    said = f"bash: {why}\n".encode()
    return Result(said, 126, False, len(said), 0.0) if why else None


class Sandbox(Protocol):
    """A fresh copy of one instance's repository, for one trial."""

    def run(self, command: str, limits: Limits) -> Result:
        """Run a command in a fresh subshell in the work tree. Raises SandboxFailed."""

    def script(self, text: str, limits: Limits) -> Result:
        """Run a bash script that is too long for a command line. Raises SandboxFailed."""

    def diff(self, exclude: tuple[str, ...] = ()) -> bytes:
        """The work tree's text changes against the base, without the paths in `exclude`.

        Cut at a size limit, so that it no longer applies. Raises DiffFailed, SandboxFailed.
        """

    def close(self) -> None:
        """Leave nothing running and nothing lying about."""
