"""What every sandbox offers, and the data that goes in and out of it."""

from dataclasses import dataclass
from typing import Protocol

TREE = "/testbed"
"""The work tree inside every sandbox, as in SWE-bench's images."""

LARGE_WRITE_BYTES = 1 << 30
"""When the disk is full, a trial that wrote at least this much counts as the one that filled it."""

ARGUMENT_MAX_BYTES = 128 << 10
"""The kernel's limit for one argument with its null byte (execve(2), MAX_ARG_STRLEN)."""


class SandboxFailed(Exception):
    """The sandbox did not start, or it vanished, and the command did not cause that."""


class DiffFailed(Exception):
    """No diff can be made of the work tree, and the trial caused that."""


@dataclass(frozen=True)
class Caps:
    """What one sandbox may use at any moment."""

    memory_mib: int = 4096
    processes: int = 256
    cpus: float = 2.0


@dataclass(frozen=True)
class Limits:
    """What one command may use."""

    wall_s: float = 60.0
    cpu_s: int = 120
    file_mib: int = 256
    """Maximum size of one file that the command writes."""
    output_mib: int = 64
    """The command is killed when it has written more output than this."""
    kept_bytes: int = 1 << 20
    """How much of the output is kept: half from its start, half from its end."""


@dataclass(frozen=True)
class Result:
    """What a command did. `output` holds stdout and stderr in the order they were written."""

    output: bytes
    code: int
    """The exit status; 128 + N if signal N ended the command."""
    timed_out: bool
    output_bytes: int
    """Size of the whole output, kept or not."""
    wall_s: float


def rejection(command: str) -> Result | None:
    """Bash's answer to a command that the kernel cannot pass to it; None for every other command.

    The model reads this text, so a new wording changes trials.
    """
    try:
        size = len(command.encode(errors="surrogateescape"))
        why = "Argument list too long" if size >= ARGUMENT_MAX_BYTES else ""
    except UnicodeEncodeError:
        why = "it is no text"
    why = "it holds a null byte" if "\0" in command else why
    message = f"bash: {why}\n".encode()
    return Result(message, 126, False, len(message), 0.0) if why else None


class Sandbox(Protocol):
    """A fresh copy of one instance's repository, for one trial."""

    def run(self, command: str, limits: Limits) -> Result:
        """Run a command in a fresh subshell in the work tree. Raises SandboxFailed."""

    def script(self, text: str, limits: Limits) -> Result:
        """Run a bash script that is too long for a command line. Raises SandboxFailed."""

    def diff(self, exclude: tuple[str, ...] = ()) -> bytes:
        """The work tree's text changes against the base, without the paths in `exclude`.

        A diff above the size limit is cut, so that it no longer applies. Raises DiffFailed and
        SandboxFailed.
        """

    def close(self) -> None:
        """End every process of the sandbox and remove its files."""
