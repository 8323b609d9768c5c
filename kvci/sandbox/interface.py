"""The methods of every sandbox, and the types of their arguments and results."""

from dataclasses import dataclass
from typing import Protocol

TREE = "/testbed"
"""The path of the work tree inside every sandbox, as in SWE-bench's images."""

LARGE_WRITE_BYTES = 1 << 30
LARGE_WRITE_FILES = 100_000
"""If the disk is full, a trial that wrote at least so many bytes or files counts as the cause."""

ARGUMENT_MAX_BYTES = 128 << 10
"""The kernel's limit for one argument, including its null byte (execve(2), MAX_ARG_STRLEN)."""


class SandboxFailed(Exception):
    """The sandbox did not start or it vanished, and the command is not the cause."""


class DiffFailed(Exception):
    """The diff of the work tree cannot be made, and the trial is the cause."""


@dataclass(frozen=True)
class Caps:
    """The most that one sandbox may use at any moment."""

    memory_mib: int = 4096
    processes: int = 256
    cpus: float = 2.0


@dataclass(frozen=True)
class Limits:
    """The most that one command may use."""

    wall_s: float = 60.0
    cpu_s: int = 120
    file_mib: int = 256
    """Maximum size of one file that the command writes."""
    output_mib: int = 64
    """The command is killed when it has written more output than this."""
    kept_bytes: int = 1 << 20
    """How much of the output is kept: half from its start, half from its end."""
    under_load: bool = False
    """True if time in which the machine has too much work does not count (clock.py)."""


@dataclass(frozen=True)
class Result:
    """The result of a command. `output` has stdout and stderr in the order of their writing."""

    output: bytes
    code: int
    """The exit status; 128 + N if signal N ended the command."""
    timed_out: bool
    output_bytes: int
    """Size of the whole output, including the part that is not kept."""
    wall_s: float


def rejection(command: str) -> Result | None:
    """Return bash's error for a command that the kernel cannot pass to bash; else None.

    The model reads this error, so a new wording changes trials.
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
    """A new copy of one instance's repository, for one trial."""

    def run(self, command: str, limits: Limits) -> Result:
        """Run a command in a new bash in the work tree.

        Raises SandboxFailed if the sandbox fails.
        """

    def script(self, text: str, limits: Limits) -> Result:
        """Run a bash script, which may be too long for a command line.

        Raises SandboxFailed if the sandbox fails.
        """

    def diff(self, exclude: tuple[str, ...] = ()) -> bytes:
        """Return the text changes since the base commit, without the paths in `exclude`.

        A diff above the size limit is cut, and git cannot apply it. Raises DiffFailed if the trial
        made a diff impossible, and SandboxFailed if the sandbox fails.
        """

    def close(self) -> None:
        """End every process of the sandbox and remove its files."""
