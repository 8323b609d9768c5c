"""Resume a run from the evidence that earlier jobs uploaded."""

import io
import lzma
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from kvci.errors import UserError
from kvci.files import sha256_of, write_atomic
from kvci.github import Artifact, GitHub
from kvci.plan import Trial
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
"""Exceptions that can occur while kvci reads an untrusted zip file."""


def artifact_name(run_id: str, shard: str) -> str:
    """Return the name of a shard's artifact. Each job of the shard uploads a new one."""
    folder = folder_of("", run_id, shard)
    return "-".join(("evidence", *folder.parts))


def fetch(github: GitHub, run_id: str, shards: Sequence[str], branch: str, into: Path) -> list[str]:
    """Put the newest evidence of each shard into a folder; return the shards that have evidence.

    kvci ignores artifacts of other branches and of forks, which may have the same name. Raises
    UserError if an artifact cannot be downloaded or read.
    """
    found = []
    for shard in shards:
        name = artifact_name(run_id, shard)
        own = [one for one in github.artifacts(name) if _is_own(one, branch)]
        if not own:
            continue
        newest = max(own, key=lambda one: (one.created, one.number))
        content = _only_file(github.download_artifact(newest.number, MAX_BYTES), name)
        into.mkdir(parents=True, exist_ok=True)
        (into / f"{name}.tar.gz").write_bytes(content)
        found.append(shard)
    return found


def fetch_all(github: GitHub, run_id: str, branch: str, into: Path) -> int:
    """Do the same as `fetch` for all shards that have evidence; return their number."""
    # Only the newest artifacts are listed. An older artifact is found by its name.
    shards = sorted(uploaded_shards(github, run_id, branch)) or ["1/1"]
    return len(fetch(github, run_id, shards, branch, into))


def uploaded_shards(github: GitHub, run_id: str, branch: str) -> set[str]:
    """Return the shards that jobs of this branch uploaded; 1/1 for a run without shards."""
    whole = re.escape(artifact_name(run_id, "1/1"))
    names = {one.name for one in github.artifacts() if _is_own(one, branch)}
    found = [re.fullmatch(rf"{whole}(?:-shard-(\d+)-of-(\d+))?", name) for name in names]
    return {f"{one[1] or 1}/{one[2] or 1}" for one in found if one}


def _is_own(one: Artifact, branch: str) -> bool:
    return one.branch == branch and not one.foreign


def fetch_published(github: GitHub, web: str, run: Sequence[Record], into: Path) -> None:
    """Put the published evidence of a run into a folder, as one archive.

    kvci needs it if the run's artifacts have expired. It comes from the release that is named in
    the record with the most trials. Raises UserError if the evidence cannot be downloaded, or if
    its hash differs from the record's.
    """
    evidence = max(run, key=lambda record: len(record.trials)).evidence
    content = github.download_asset(evidence.where, web, MAX_BYTES)
    if sha256_of(content) != evidence.sha256:
        raise UserError(
            f"{evidence.where} does not have the SHA-256 of its record; publish its run again."
        )
    write_atomic(into / f"{artifact_name(run[0].run_id, '1/1')}.tar.gz", content)


def _only_file(archive: bytes, name: str) -> bytes:
    """Return the only file in an artifact's zip file.

    Raises UserError if the zip file cannot be read, or if the file is too large.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as packed:
            (only,) = packed.infolist()
            if only.file_size > MAX_BYTES:
                raise UserError(
                    f"The artifact {name} is larger than {MAX_BYTES >> 30} GiB; use more shards."
                )
            return packed.read(only)
    except BROKEN as error:
        raise UserError(
            f"The artifact {name} is not an archive of kvci: {error}; delete the artifact."
        ) from None


def restore(before: Path, out: str, run_id: str, shard: str) -> list[str]:
    """Resume a shard from the evidence below `before` if it has trials that this machine lacks.

    Otherwise kvci keeps this machine's folder, because the folder is not redacted. If the evidence
    and the folder each have trials that the other lacks, the evidence replaces the folder, because
    the evidence may be published already. Returns a line for each archive, which says what kvci
    did. Raises UserError if an archive is not valid or contains another run.
    """
    folder, whole = folder_of(out, run_id, shard), f"{artifact_name(run_id, '1/1')}.tar.gz"
    archives = before.rglob(f"{artifact_name(run_id, shard)}.tar.gz")
    paths = {*archives, *before.glob(whole)}
    lines = [_restore_archive(path, folder, run_id, shard) for path in sorted(paths)]
    return [line for line in lines if line] or ["no earlier job uploaded evidence of this shard"]


def _restore_archive(archive: Path, folder: Path, run_id: str, shard: str) -> str:
    place = folder.parent / f".{folder.name}-before"
    shutil.rmtree(place, ignore_errors=True)  # a killed job may have left this folder
    place.mkdir(parents=True)
    found = unpack(archive, place)
    part = found / folder.name if shard != "1/1" else found
    if not part.exists():
        shutil.rmtree(place)
        return ""
    uploaded, local = _keys(RunDirectory(part).outcomes()), _keys(RunDirectory(folder).outcomes())
    if local and uploaded - _keys(RunDirectory(folder).superseded()) <= local:
        shutil.rmtree(place)
        return f"this machine has all trials of the evidence ({len(local)})"
    manifest = RunDirectory(part).manifest
    if manifest.run_id != run_id:
        raise UserError(f"{archive} contains the run {manifest.run_id}, not {run_id}; remove it.")
    manifest.model_copy(update={"redacted": False}).write(part / "manifest.json")
    RunDirectory(part).spec.without_places().write(part / "spec.json")
    if folder.exists():
        aside = folder.parent / f".{folder.name}.{len(local)}-of-{len(uploaded)}"
        shutil.rmtree(aside, ignore_errors=True)  # an older copy has the same trials, or fewer
        folder.rename(aside)
    part.rename(folder)
    shutil.rmtree(place, ignore_errors=True)
    return f"resumed from an earlier job: {len(uploaded)} trials; this machine had {len(local)}"


def earliest_start(before: Path) -> str:
    """Return the UTC time at which the run of this evidence began; empty without evidence.

    Raises UserError if an archive is not valid.
    """
    starts = []
    for archive in sorted(before.glob("*.tar.gz")):
        with tempfile.TemporaryDirectory() as place:
            found = Run(unpack(archive, Path(place)))
            starts += [part.manifest.start for part in found.parts]
    return min(starts, default="")


def _keys(outcomes: Iterable[Outcome]) -> set[tuple[Trial, str]]:
    """Return each trial with its start. A trial of an interrupted block starts again later."""
    return {(one.trial, one.start) for one in outcomes}
