"""Downloads files from the Hugging Face hub before a run; resumes downloads and caches files."""

import fcntl
import glob
import shutil
from pathlib import Path
from typing import Any, Literal

from kvci.errors import UserError
from kvci.files import sha256_of_file

Kind = Literal["model", "dataset"]
RESERVE_BYTES = 5 << 30
"""Disk space that must stay free after a download, by default."""


def fetch(
    repository: str,
    file: str,
    revision: str | None = None,
    kind: Kind = "model",
    sha256: str = "",
    reserve_bytes: int = RESERVE_BYTES,
) -> Path:
    """Return the file's path in the cache; download the file first if the cache lacks it.

    A cached file with this sha256 is used without a request to the hub, even if it is from another
    commit. A download leaves `reserve_bytes` free on the cache's disk. Raises UserError if the file
    cannot be downloaded or the disk has too little space.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub import try_to_load_from_cache as in_library

    where: Any = {"repo_id": repository, "filename": file, "repo_type": kind, "revision": revision}
    folder, found = Path(constants.HF_HUB_CACHE), in_library(**where)
    library_path = Path(found) if isinstance(found, str) else None
    if sha256 and (known := _cached_with(sha256, folder, repository, file)):
        return known
    if revision and library_path:
        return library_path
    if revision and (path := _cache_path(folder, repository, revision, file)).exists():
        return path
    try:
        url = hf_hub_url(**where)
        metadata = get_hf_file_metadata(url)
        size = metadata.size or 0
        path = _cache_path(folder, repository, metadata.commit_hash or "", file)
        folder.mkdir(parents=True, exist_ok=True)
        cached = library_path or path.exists()
        missing = size - (_partial(path).stat().st_size if _partial(path).exists() else 0)
        if not cached and shutil.disk_usage(folder).free - missing < reserve_bytes:
            raise UserError(
                f"The disk of {folder} has too little space for {file} of {repository}: the file "
                f"takes {size >> 20} MiB, and {reserve_bytes >> 20} MiB must stay free. Free some "
                "space, or set HF_HOME to another folder."
            )
        if kind == "dataset" or library_path or size > constants.MAX_HTTP_DOWNLOAD_SIZE:
            return Path(hf_hub_download(**where))
        return _resume(url, path, size)
    except UserError:
        raise
    except Exception as error:  # the library's exceptions have no common base class
        raise UserError(
            f"{file} of {repository} cannot be downloaded ({_first_line(error)}); "
            "check the names and the network."
        ) from None


def _cached_with(sha256: str, folder: Path, repository: str, file: str) -> Path | None:
    """Return a cached file with this sha256, of any commit; None if the cache has none."""
    snapshots = folder / f"models--{repository.replace('/', '--')}" / "snapshots"
    for commits in (folder / "kvci" / repository, snapshots):
        for path in commits.glob(f"*/{glob.escape(file)}"):
            if sha256_of_file(path) == sha256:
                return path
    return None


def _cache_path(folder: Path, repository: str, commit: str, file: str) -> Path:
    """Return the file's path in kvci's own part of the cache.

    kvci downloads models itself, because the library cannot resume a partial download.
    """
    return folder / "kvci" / repository / commit / file


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _resume(url: str, path: Path, size: int) -> Path:
    """Download the missing part of a file of `size` bytes. Other processes wait meanwhile."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    path.parent.mkdir(parents=True, exist_ok=True)
    with _partial(path).open("ab") as partial:
        fcntl.flock(partial, fcntl.LOCK_EX)
        if path.exists():  # another process downloaded it meanwhile
            _partial(path).unlink(missing_ok=True)
            return path
        if partial.tell() > size:
            partial.truncate(0)
        headers = build_hf_headers()
        http_get(url, partial, resume_size=partial.tell(), headers=headers, expected_size=size)
        _partial(path).rename(path)
    return path


def revision_and_files(repository: str, revision: str | None) -> tuple[str, list[str]]:
    """Return the commit that a dataset's revision names, and the names of the dataset's files.

    Raises UserError if the hub does not report them.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().dataset_info(repository, revision=revision)
    except Exception as error:
        raise UserError(
            f"The dataset {repository} cannot be loaded from the hub ({_first_line(error)}); "
            "check its name and the network, or give a .jsonl or .parquet file instead."
        ) from None
    return str(info.sha), [file.rfilename for file in info.siblings or []]


def cached_files(repository: str, commit: str) -> list[str]:
    """Return the names of a dataset's files at this commit, as far as the cache has the files."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(
                repository, repo_type="dataset", revision=commit, local_files_only=True
            )
        )
    except Exception:
        return []
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
