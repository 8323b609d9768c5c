"""Files that other processes and later runs may trust: validated, written whole or not at all."""

import errno
import hashlib
import os
import subprocess
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from kvci.errors import UserError


class Document(BaseModel):
    """Data at a file boundary: immutable, and a field nobody declared is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )

    def write(self, path: Path) -> None:
        write_atomic(path, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises UserError naming the file when it is missing or is not what it should be."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise UserError(f"{path} does not exist.") from None
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}.") from None
        except ValidationError as error:
            raise UserError(f"{path} is not valid: {first_problem(error)}.{_hint(error)}") from None


def _hint(error: ValidationError) -> str:
    """What to do about a field that only another version of kvci knows."""
    unknown = any(problem["type"] == "extra_forbidden" for problem in error.errors())
    return " Another version of kvci wrote it; use that version." if unknown else ""


def first_problem(error: ValueError) -> str:
    """The first complaint in one line: where, if pydantic says it, and what."""
    if not isinstance(error, ValidationError):
        return str(error)
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{where}: {message}" if where else message


def is_full(error: BaseException) -> bool:
    """The disk is, or the user's share of it."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def no_room(path: Path | str) -> UserError:
    return UserError(
        f"The disk of {path} is full; make room, and run the same command again: what is finished "
        "is kept."
    )


def open_up(folder: Path) -> None:
    """Let this user read and remove all of a tree, whose folders may have no rights."""
    _quietly("chmod", "-R", "u+rwX", "--", str(folder))


def clear(folder: Path) -> None:
    """Remove a tree, whoever made it: with folders without rights, or deeper than Python goes."""
    if os.path.lexists(folder):
        open_up(folder)
        _quietly("rm", "-rf", "--", str(folder))


def _quietly(*words: str) -> None:
    """The tree may be gone meanwhile."""
    subprocess.run(words, check=False, stderr=subprocess.DEVNULL)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write, fsync, rename, fsync the folder: after a crash the file is old or new, never half."""
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


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
