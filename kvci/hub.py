"""Files of the Hugging Face hub: fetched whole before they are needed, resumed, cached."""

import fcntl
import glob
import shutil
from pathlib import Path
from typing import Any, Literal

from kvci.errors import UserError
from kvci.files import sha256_of_file

Kind = Literal["model", "dataset"]
RESERVE_BYTES = 5 << 30


def fetch(
    repository: str,
    file: str,
    revision: str | None = None,
    kind: Kind = "model",
    sha256: str = "",
    reserve_bytes: int = RESERVE_BYTES,
) -> Path:
    """The file's path in the cache. Raises UserError if it cannot be had or has no room.

    One of this sha256 that is there is taken whatever commit it came with, and the hub not asked.
    The reserve is of the disk with the cache, and never used.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub import try_to_load_from_cache as cached

    where: Any = {"repo_id": repository, "filename": file, "repo_type": kind, "revision": revision}
    folder, known = Path(constants.HF_HUB_CACHE), cached(**where)
    if sha256 and (there := _of_content(folder, repository, file, sha256)):
        return there
    if revision and isinstance(known, str):
        return Path(known)
    if revision and (mine := _place(folder, repository, revision, file)).exists():
        return mine
    try:
        url = hf_hub_url(**where)
        found = get_hf_file_metadata(url)
        size, mine = found.size or 0, _place(folder, repository, found.commit_hash or "", file)
        folder.mkdir(parents=True, exist_ok=True)
        here = isinstance(known, str) or mine.exists()
        left = size - (_partial(mine).stat().st_size if _partial(mine).exists() else 0)
        if not here and shutil.disk_usage(folder).free - left < reserve_bytes:
            raise UserError(
                f"{file} of {repository} takes {size >> 20} MiB, and {folder} has no room for it "
                f"beside a reserve of {reserve_bytes >> 20} MiB; make room, or set HF_HOME."
            )
        if kind == "dataset" or isinstance(known, str) or size > constants.MAX_HTTP_DOWNLOAD_SIZE:
            return Path(hf_hub_download(**where))
        return _resumed(url, mine, size)
    except UserError:
        raise
    except Exception as error:  # what the library raises has no common base
        raise UserError(
            f"{file} of {repository} cannot be fetched ({_first_line(error)}); "
            "check the names and the network."
        ) from None


def _of_content(folder: Path, repository: str, file: str, sha256: str) -> Path | None:
    snapshots = folder / f"models--{repository.replace('/', '--')}" / "snapshots"
    for commits in (folder / "kvci" / repository, snapshots):
        for path in commits.glob(f"*/{glob.escape(file)}"):
            if sha256_of_file(path) == sha256:
                return path
    return None


def _place(folder: Path, repository: str, commit: str, file: str) -> Path:
    """Of kvci's own, for the library begins anew whatever there was of a file."""
    return folder / "kvci" / repository / commit / file


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _resumed(url: str, path: Path, size: int) -> Path:
    """Fetch a file, from where an earlier process left off; one process at a time."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    path.parent.mkdir(parents=True, exist_ok=True)
    with _partial(path).open("ab") as partial:
        fcntl.flock(partial, fcntl.LOCK_EX)
        if path.exists():  # another had it meanwhile
            _partial(path).unlink(missing_ok=True)
            return path
        if partial.tell() > size:
            partial.truncate(0)
        headers = build_hf_headers()
        http_get(url, partial, resume_size=partial.tell(), headers=headers, expected_size=size)
        _partial(path).rename(path)
    return path


def revision_and_files(repository: str, revision: str | None) -> tuple[str, list[str]]:
    """Of a dataset: the commit that the revision names, and its files. Raises UserError."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().dataset_info(repository, revision=revision)
    except Exception as error:
        raise UserError(
            f"The dataset {repository} cannot be had from the hub ({_first_line(error)}); "
            "give a .jsonl or .parquet file instead."
        ) from None
    return str(info.sha), [one.rfilename for one in info.siblings or []]


def cached_files(repository: str, commit: str) -> list[str]:
    """Of a dataset: what the cache has of this commit."""
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
