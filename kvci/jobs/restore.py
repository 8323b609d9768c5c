"""A run that earlier jobs began: what they uploaded, brought back to whoever goes on with it."""

import io
import lzma
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from kvci.errors import UserError
from kvci.files import sha256_of, write_atomic
from kvci.github import Artifact, GitHub
from kvci.record.bundle import unpack
from kvci.record.schema import Record
from kvci.run.experiment import folder_of
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import Outcome
from kvci.rundir.parts import Run

MAX_BYTES = 2 << 30
BROKEN = (
    *(ValueError, RuntimeError, EOFError, OSError),
    *(zlib.error, lzma.LZMAError, zipfile.BadZipFile),
)
"""What reading a zip may raise that somebody has made."""


def artifact_name(run_id: str, shard: str) -> str:
    """Of the evidence of a shard; each job that goes on with it uploads it anew."""
    folder = folder_of("", run_id, shard)
    return "-".join(("evidence", *folder.parts))


def fetch(github: GitHub, run_id: str, shards: Sequence[str], branch: str, into: Path) -> list[str]:
    """Put the newest evidence of each shard into the folder; the shards that have some.

    Artifacts of other branches and of forks may have the same name, and are not looked at.
    Raises UserError.
    """
    found = []
    for shard in shards:
        name = artifact_name(run_id, shard)
        some = [one for one in github.artifacts(name) if _is_ours(one, branch)]
        if not some:
            continue
        newest = max(some, key=lambda one: (one.created, one.number))
        content = _only_file(github.download_artifact(newest.number, MAX_BYTES), name)
        into.mkdir(parents=True, exist_ok=True)
        (into / f"{name}.tar.gz").write_bytes(content)
        found.append(shard)
    return found


def fetch_all(github: GitHub, run_id: str, branch: str, into: Path) -> int:
    """The same of a run of which nobody says how many shards it has."""
    some = sorted(shards_left(github, run_id, branch)) or ["1/1"]  # older, asked for by its name
    return len(fetch(github, run_id, some, branch, into))


def shards_left(github: GitHub, run_id: str, branch: str) -> set[str]:
    """Those of which some job of this branch left evidence; 1/1 of a run that was not divided."""
    whole = re.escape(artifact_name(run_id, "1/1"))
    names = {one.name for one in github.artifacts() if _is_ours(one, branch)}
    found = [re.fullmatch(rf"{whole}(?:-shard-(\d+)-of-(\d+))?", name) for name in names]
    return {f"{one[1] or 1}/{one[2] or 1}" for one in found if one}


def _is_ours(one: Artifact, branch: str) -> bool:
    return one.branch == branch and not one.foreign


def fetch_published(github: GitHub, web: str, run: Sequence[Record], into: Path) -> None:
    """The same of a run whose artifacts are gone, of all its shards in one, from the release that
    the fullest of its records names. Raises UserError."""
    evidence = max(run, key=lambda record: len(record.trials)).evidence
    content = github.download_asset(evidence.where, web, MAX_BYTES)
    if sha256_of(content) != evidence.sha256:
        raise UserError(f"{evidence.where} is not what the record of it says.")
    write_atomic(into / f"{artifact_name(run[0].run_id, '1/1')}.tar.gz", content)


def _only_file(archive: bytes, name: str) -> bytes:
    """GitHub gives artifacts as zip."""
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as packed:
            (only,) = packed.infolist()
            if only.file_size > MAX_BYTES:
                raise UserError(f"The artifact {name} is larger than {MAX_BYTES >> 30} GiB.")
            return packed.read(only)
    except BROKEN as error:
        raise UserError(f"The artifact {name} is not what kvci uploads: {error}.") from None


def restore(before: Path, out: str, run_id: str, shard: str) -> list[str]:
    """Take up a shard from the evidence below `before`, where this machine knows less of it; in
    words.

    What another machine knows and this one too stays this one's: it is not redacted. Where the two
    went on apart, what was uploaded counts, for it may be published. Raises UserError.
    """
    folder, whole = folder_of(out, run_id, shard), f"{artifact_name(run_id, '1/1')}.tar.gz"
    mine = before.rglob(f"{artifact_name(run_id, shard)}.tar.gz")
    paths = {*mine, *before.glob(whole)}
    said = [_take_up(path, folder, run_id, shard) for path in sorted(paths)]
    return [line for line in said if line] or ["no earlier job left evidence of it"]


def _take_up(archive: Path, folder: Path, run_id: str, shard: str) -> str:
    place = folder.parent / f".{folder.name}-before"
    shutil.rmtree(place, ignore_errors=True)  # of a job that was cut off
    place.mkdir(parents=True)
    found = unpack(archive, place)
    part = found / folder.name if shard != "1/1" else found
    if not part.exists():
        shutil.rmtree(place)
        return ""
    theirs, ours = _done(part), _done(folder)
    if ours and theirs - _aside(folder) <= ours:
        shutil.rmtree(place)
        return f"this machine has all of it ({len(ours)} trials)"
    manifest = RunDirectory(part).manifest
    if manifest.run_id != run_id:
        raise UserError(f"{archive} is of the run {manifest.run_id}, not of {run_id}.")
    manifest.model_copy(update={"redacted": False}).write(part / "manifest.json")
    RunDirectory(part).spec.without_places().write(part / "spec.json")
    if folder.exists():
        aside = folder.parent / f".{folder.name}.{len(ours)}-of-{len(theirs)}"
        shutil.rmtree(aside, ignore_errors=True)  # the same trials, or fewer
        folder.rename(aside)
    part.rename(folder)
    shutil.rmtree(place, ignore_errors=True)
    return f"taken up from an earlier job: {len(theirs)} trials, of which {len(ours)} were here"


def began(before: Path) -> str:
    """When the run began whose evidence lies there; empty if there is none. Raises UserError."""
    starts = []
    for archive in sorted(before.glob("*.tar.gz")):
        with tempfile.TemporaryDirectory() as place:
            found = Run(unpack(archive, Path(place)))
            starts += [part.manifest.start for part in found.parts]
    return min(starts, default="")


def _aside(folder: Path) -> set[tuple[str, str, int, str]]:
    """Trials of blocks that broke, which another machine put aside and ran again."""
    paths = folder.glob("superseded/*/*/*/*/outcome.json")
    return {(one.arm, one.instance, one.seed, one.start) for one in map(Outcome.read, paths)}


def _done(folder: Path) -> set[tuple[str, str, int, str]]:
    outcomes = RunDirectory(folder).outcomes()
    return {(one.arm, one.instance, one.seed, one.start) for one in outcomes}
