"""Read this repository's records in the work tree and on the branch of unmerged rows."""

import hashlib
from pathlib import Path

from kvci.errors import UserError
from kvci.github import GitHub, TooLarge
from kvci.record.places import BENCHMARKS, PAGE_MAX_BYTES, RECORD_MAX_BYTES, RESULTS, is_record
from kvci.record.schema import Record
from kvci.record.store import file_name, parse, read_all


def records(github: GitHub, branch: str) -> list[Record]:
    """Return the records of the work tree and of `branch`.

    If both have a record, the record of `branch` counts.
    """
    found = {f"{RESULTS}/{file_name(one.row_id)}": one for one in read_all(Path(RESULTS))}
    commit = github.branch(branch)
    for path, sha in github.tree(commit).items() if commit else ():
        if sha and is_record(path):
            found[path] = parse(content(github, path, sha), path)
    return [record for record in found.values() if isinstance(record, Record)]


def shards_of(run: list[Record]) -> int:
    """Return the number of shards of a run; 0 if its records have no trial."""
    return max((record.shards for record in run if record.counted), default=0)


def content(github: GitHub, path: str, sha: str) -> bytes:
    """Return the content of the Git blob `sha`.

    If the file of the work tree has this hash, kvci reads that file, because GitHub limits the
    number of requests. Raises UserError if the file is larger than a result may be.
    """
    place = Path(path)
    local = place.read_bytes() if place.is_file() else b""
    blob = hashlib.sha1(b"blob %d\0" % len(local) + local).hexdigest()
    if blob == sha:
        return local
    limit = PAGE_MAX_BYTES if path == BENCHMARKS else RECORD_MAX_BYTES
    try:
        return github.blob(sha, limit)
    except TooLarge:
        why = f"{path[:200]} is larger than {limit >> 20} MiB; make it smaller."
        raise UserError(why) from None
