"""Pack the evidence of a run's records into one redacted tar.gz, and unpack it.

A record has the sha256 of each redacted file, so that the same record can be built from the
archive.
"""

import gzip
import io
import json
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from kvci.children import in_child
from kvci.errors import UserError
from kvci.files import sha256_of, write_atomic
from kvci.record.redact import redact, redact_json
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import TEST_LOG, Manifest
from kvci.rundir.parts import Run
from kvci.spec import Spec

TOP_FILES = ("spec.json", "images.json", "ceiling.json")
FOLDERS = ("preflight", "servers", "superseded", "trials")
PATCH, REPORT = "patch.diff", "report.json"
UNCHANGED = frozenset({PATCH, REPORT})
"""Files that are not redacted. The trial's outcome has the patch's sha256. swebench's report has
only the names of the dataset's tests."""
MEMBER_NAME = re.compile(
    rf"(shard-\d+-of-\d+/)?(manifest\.json|{'|'.join(map(re.escape, TOP_FILES))}"
    rf"|({'|'.join(FOLDERS)})(/(?!\.\.?/|\.\.?$|[^/]*\.(jsonl?|diff|log|out)/)[^/\0]+)+)"
)
"""The names of a run's files. A folder with the name of a file, as in trials/x.json/y, is refused.
"""
MAX_BYTES = 4 << 30
MAX_FILES = 200_000
MAX_LOG_BYTES, MAX_FILE_BYTES = 512 << 20, 64 << 20
"""Limits for logs, of which kvci reads the text, and for other files, which are parsed."""
MAX_NAME = 1000
"""The maximum length of the name of a file, with its folders."""
MAX_HEADER_BYTES = 1 << 20
UNPACK_S, UNPACK_MEMORY = 15 * 60.0, 256 << 20
"""The time and the memory of the child process that unpacks an archive."""
BROKEN = (OSError, EOFError, ValueError, LookupError, RecursionError, tarfile.TarError, zlib.error)
"""Exceptions that can occur while tarfile reads an untrusted archive."""


def publishable(path: Path, run: Path, redacted: bool) -> bytes:
    """Return the redacted content of a file of this run directory.

    If `redacted` is true, the run directory comes from an archive, and its files are redacted.
    """
    content = path.read_bytes()
    if redacted or path.name in UNCHANGED:
        return content
    if path == run / "spec.json" and (spec := Spec.read(path)).verified:
        content = spec.without_places().model_dump_json().encode()
    text = content.decode(errors="surrogateescape")
    if path.suffix == ".json":
        text = json.dumps(redact_json(json.loads(text), run), indent=1)
    elif path.suffix == ".jsonl":
        text = "\n".join(_redacted_line(line, run) for line in text.split("\n"))
    elif path.name == TEST_LOG:
        # The verdict is computed from it, and no sandbox knows the names of the machine and user.
        text = redact(text, run, names=False, keep=_tests(path.with_name(REPORT)))
    else:
        text = redact(text, run)
    return text.encode(errors="surrogateescape")


def _tests(report: Path) -> set[str]:
    """Return the names of the tests in swebench's report; empty if there is no report."""
    if not report.exists():
        return set()
    found = json.loads(report.read_bytes()).get("tests_status", {})
    return {name for kind in found.values() for names in kind.values() for name in names}


def pack(run: Path, shard: str = "") -> bytes:
    """Return the archive of a run with all its shards, or of the one shard in the folder `shard`.

    The same run always gives the same bytes.
    """
    out = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for directory in [RunDirectory(run / shard)] if shard else Run(run).parts:
            part, manifest = directory.path, directory.manifest
            directory.outcomes()  # raises UserError for an outcome that this kvci cannot read
            for path in _sorted_files(part):
                content = publishable(path, part, manifest.redacted)
                _add(archive, str(path.relative_to(run)), content)
            fields = redact_json(manifest.model_dump(mode="json"), part)
            redacted = Manifest.model_validate(fields | {"redacted": True})
            name = str((part / "manifest.json").relative_to(run))
            _add(archive, name, redacted.model_dump_json(indent=1).encode())
    return out.getvalue()


def write(run: Path, archive: Path, shard: str = "") -> str:
    """Write the archive that `pack` returns, and return its sha256."""
    content = pack(run, shard)
    write_atomic(archive, content)
    return sha256_of(content)


class _Member(tarfile.TarInfo):
    """A member of an archive: a file, or the header in which `pack` writes a long name.

    Other members are refused before tarfile reads them, because it keeps some of them in memory.
    """

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if found.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.XHDTYPE):
            raise tarfile.TarError(f"{found.name[:80]!r} is not a file of a run")
        if found.type == tarfile.XHDTYPE and found.size > MAX_HEADER_BYTES:
            raise tarfile.TarError("a header is too large")
        return found


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack an untrusted archive into an empty folder, and return that folder as a run directory.

    Raises UserError if the archive is damaged, too large, or not redacted, or if it needs too much
    time or memory. Also raises UserError if a member is not a regular file of a run, for example a
    link or a path outside the folder.
    """
    if problem := _unpacked_in_child(archive, folder):
        raise UserError(f"{archive} is not evidence of a run: {problem}.")
    run = Run(folder)
    if run.shards and RunDirectory(folder).exists:
        raise UserError(f"{archive} is not evidence of a run: it has both a whole run and shards.")
    for part in run.parts:
        if not part.manifest.redacted:
            raise UserError(f"{archive} is not redacted; make it with kvci evidence.")
    return folder


def _unpacked_in_child(archive: Path, folder: Path) -> str:
    """Unpack an archive, and return what is wrong with it; empty if nothing is.

    A header may ask tarfile for any amount of memory, for example to list the holes of a file.
    """

    def work() -> str:
        try:
            _unpack(archive, folder)
        except MemoryError:
            return "it needs too much memory"
        except BROKEN as error:
            return str(error)
        return ""

    try:
        return str(in_child(work, UNPACK_S, UNPACK_MEMORY))
    except TimeoutError:
        return f"it takes longer than {UNPACK_S / 60:.0f} minutes to unpack"
    except EOFError:
        return "kvci's process ended while it unpacked it"


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack an untrusted archive. Raises MemoryError or one of BROKEN if it cannot be unpacked."""
    total = count = 0
    with (
        gzip.open(archive) as stream,
        tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as packed,
    ):
        while member := packed.next():
            packed.members.clear()  # type: ignore[attr-defined]  # it would keep all headers
            total, count = total + member.size, count + 1
            if total > MAX_BYTES or count > MAX_FILES:
                raise tarfile.TarError("it is too large")
            _unpack_member(packed, member, folder)
        while stream.read(1 << 16):  # read to the end: a truncated archive raises here
            if (total := total + (1 << 16)) > MAX_BYTES:
                raise tarfile.TarError("it is too large")


def _unpack_member(packed: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    name = member.name
    known = len(name) <= MAX_NAME and MEMBER_NAME.fullmatch(name) and name.isprintable()
    if not member.isfile() or not known:
        raise tarfile.TarError(f"{name[:80]!r} is not a file of a run")
    log = name.endswith((".log", ".txt", ".out"))
    if member.size > (MAX_LOG_BYTES if log else MAX_FILE_BYTES):
        raise tarfile.TarError(f"{name[-80:]!r} is too large")
    content = packed.extractfile(member)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        shutil.copyfileobj(content, file)  # type: ignore[arg-type]  # it is a file


def _sorted_files(run: Path) -> Iterator[Path]:
    """Yield all files except the manifest, in an order that does not depend on the disk."""
    yield from (path for name in TOP_FILES if (path := run / name).is_file())
    for folder in FOLDERS:
        yield from sorted(path for path in (run / folder).rglob("*") if path.is_file())


def _redacted_line(line: str, run: Path) -> str:
    """Return a redacted line of a JSONL file.

    A line that is not JSON is redacted as text. It is the empty last line, or half a line of a kvci
    that was killed.
    """
    try:
        return json.dumps(redact_json(json.loads(line), run))
    except ValueError:
        return redact(line, run)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    archive.addfile(member, io.BytesIO(content))
