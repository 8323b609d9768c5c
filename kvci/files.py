"""Reading and writing files safely: validated when read, written completely or not at all."""

import errno
import hashlib
import os
import stat
import subprocess
import tomllib
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from kvci.errors import UserError
from kvci.problems import first_problem, remedy


class Document(BaseModel):
    """Data of a file. A document is immutable, and a field that it does not declare is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )

    def write(self, path: Path) -> None:
        write_atomic(path, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the document in this file. Raises UserError if it is missing or not valid."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise UserError(f"{path} does not exist; check the path.") from None
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); check the path.") from None
        except ValidationError as error:
            problem = first_problem(error)
            raise UserError(f"{path} is not valid: {problem}.{remedy(error)}") from None


def is_disk_full(error: BaseException) -> bool:
    """True if the disk, or the user's quota, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_full_error(path: Path | str) -> UserError:
    return UserError(
        f"The disk of {path} is full; free some space, then run the same command again. "
        "Finished work is kept."
    )


def make_accessible(folder: Path) -> None:
    """Give this user the rights to read and remove everything in a folder."""
    _quietly("chmod", "-R", "u+rwX", "--", str(folder))


def remove_tree(folder: Path) -> None:
    """Remove a folder, even if its subfolders forbid access or are nested too deep for Python."""
    if os.path.lexists(folder):
        make_accessible(folder)
        _quietly("rm", "-rf", "--", str(folder))


def _quietly(*words: str) -> None:
    """Run a program and hide its errors: another process may have removed the folder meanwhile."""
    subprocess.run(words, check=False, stderr=subprocess.DEVNULL)


def open_lock(path: Path, access: int = os.O_RDONLY, mode: int = 0o644) -> int:
    """Open a lock file and return its descriptor. A new file gets this mode, whatever the umask is.

    Raises UserError if the path is not a regular file: a link leads to another file, and to open a
    FIFO can take forever.
    """
    flags, problem = access | os.O_NOFOLLOW | os.O_NONBLOCK, f"{path} is not a file; remove it."
    try:
        try:
            lock = os.open(path, flags)  # first without O_CREAT, which fs.protected_regular refuses
        except FileNotFoundError:
            lock = os.open(path, flags | os.O_CREAT, mode)
            os.fchmod(lock, mode)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):  # a link, a socket, a folder
            raise UserError(problem) from None
        raise
    if not stat.S_ISREG(os.fstat(lock).st_mode):
        os.close(lock)
        raise UserError(problem)
    return lock


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write the file so that a crash leaves the complete old file or the complete new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_toml(path: Path, see: str) -> dict[str, Any]:
    """Return the document of a TOML file.

    `see` is where examples are. Raises UserError if the file cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); see {see}.") from None
    except ValueError as error:  # not UTF-8, not TOML, or a number with too many digits
        raise UserError(f"{path} is not TOML: {error}; correct the file.") from None


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
