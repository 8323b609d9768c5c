"""The files that a run's records rest on, as they are published: redacted, in one archive.

A record holds the sha256 of each of them as redacted, so that whoever has the archive builds the
same record from it.
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

from kvci.errors import UserError
from kvci.files import sha256_of, write_atomic
from kvci.record.redact import redact, redact_json
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import Manifest
from kvci.rundir.parts import Run
from kvci.spec import Spec

ALONE = ("spec.json", "images.json", "ceiling.json")
FOLDERS = ("preflight", "servers", "superseded", "trials")
PATCH = "patch.diff"
"""It stays as it is: the trial's outcome has its sha256."""
NAME = re.compile(
    rf"(shard-\d+-of-\d+/)?(manifest\.json|{'|'.join(map(re.escape, ALONE))}"
    rf"|({'|'.join(FOLDERS)})(/(?!\.\.?/|\.\.?$|[^/]*\.(jsonl?|diff|log|out)/)[^/\0]+)+)"
)
"""No folder is named as a file of a run is."""
MAX_BYTES = 4 << 30
MAX_FILES = 200_000
MAX_HEADER_BYTES = 1 << 20
HEADERS = {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE}
HEADERS |= {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}


def published(path: Path, run: Path, redacted: bool) -> bytes:
    """What of a file of this run directory may be seen. `redacted`: the run is so already."""
    content = path.read_bytes()
    if redacted or path.name == PATCH:
        return content
    if path == run / "spec.json" and (spec := Spec.read(path)).verified:
        content = spec.placeless().model_dump_json().encode()
    text = content.decode(errors="surrogateescape")
    if path.suffix == ".json":
        text = json.dumps(redact_json(json.loads(text), run), indent=1)
    elif path.suffix == ".jsonl":
        text = "\n".join(_line(line, run) for line in text.split("\n"))
    elif path.parent.name == "servers":
        # Whoever reads what it proves must find its words: a user may be called `build`.
        text = redact(text, run, after="/@")
    else:
        text = redact(text, run)
    return text.encode(errors="surrogateescape")


def pack(run: Path, shard: str = "") -> bytes:
    """The archive of a run with all its shards, or the one in this folder of it.

    The same run gives the same bytes.
    """
    out = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for directory in [RunDirectory(run / shard)] if shard else Run(run).parts:
            part, manifest = directory.path, directory.manifest
            for path in _files(part):
                _add(archive, str(path.relative_to(run)), published(path, part, manifest.redacted))
            shown = redact_json(manifest.model_dump(mode="json"), part)
            clean = Manifest.model_validate(shown | {"redacted": True})
            name = str((part / "manifest.json").relative_to(run))
            _add(archive, name, clean.model_dump_json(indent=1).encode())
    return out.getvalue()


def write(run: Path, archive: Path, shard: str = "") -> str:
    """The archive's sha256."""
    content = pack(run, shard)
    write_atomic(archive, content)
    return sha256_of(content)


class _Member(tarfile.TarInfo):
    """A member whose header, which is read whole into memory, is of a header's size."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if found.type in HEADERS and found.size > MAX_HEADER_BYTES:
            raise tarfile.TarError("it has a header that is no header")
        return found


def unpack(archive: Path, folder: Path) -> Path:
    """The run directory that an archive holds, in an empty folder; nothing of it is trusted.

    Raises UserError for what is no such archive: links, devices, ways out of the folder, other
    names, too many files or bytes.
    """
    total = count = 0
    try:
        with (
            gzip.open(archive) as stream,
            tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as packed,
        ):
            for member in packed:
                total, count = total + member.size, count + 1
                if total > MAX_BYTES or count > MAX_FILES:
                    raise tarfile.TarError("it holds too much")
                plain = NAME.fullmatch(member.name) and member.name.isprintable()
                if not member.isfile() or not plain:
                    raise tarfile.TarError(f"{member.name[:80]!r} is no file of a run")
                content = packed.extractfile(member)
                place = folder / member.name
                place.parent.mkdir(parents=True, exist_ok=True)
                with place.open("xb") as file:
                    shutil.copyfileobj(content, file)  # type: ignore[arg-type]  # it is a file
            while stream.read(1 << 16):  # what follows the last file; cut off, it raises
                if (total := total + (1 << 16)) > MAX_BYTES:
                    raise tarfile.TarError("it holds too much")
    except (OSError, EOFError, ValueError, RecursionError, tarfile.TarError, zlib.error) as error:
        raise UserError(f"{archive} is no evidence of a run: {error}.") from None
    found = Run(folder)
    if found.shards and RunDirectory(folder).exists:
        raise UserError(f"{archive} is no evidence of a run: it holds a whole run beside shards.")
    for part in found.parts:
        if not part.manifest.redacted:
            raise UserError(f"{archive} was not made by kvci evidence; it is not redacted.")
    return folder


def _files(run: Path) -> Iterator[Path]:
    """All but the manifest, in an order that does not depend on the disk."""
    yield from (path for name in ALONE if (path := run / name).is_file())
    for folder in FOLDERS:
        yield from sorted(path for path in (run / folder).rglob("*") if path.is_file())


def _line(line: str, run: Path) -> str:
    """The last one is empty, and a killed kvci may have left one half written."""
    try:
        return json.dumps(redact_json(json.loads(line), run, names=True))
    except ValueError:
        return redact(line, run)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    archive.addfile(member, io.BytesIO(content))
