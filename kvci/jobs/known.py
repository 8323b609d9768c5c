"""Read this repository's records in the work tree and on the branch of unmerged rows."""

import hashlib
from pathlib import Path

from kvci.github import GitHub
from kvci.record.places import RESULTS, is_record
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
    number of requests.
    """
    place = Path(path)
    local = place.read_bytes() if place.is_file() else b""
    blob = hashlib.sha1(b"blob %d\0" % len(local) + local).hexdigest()
    return local if blob == sha else github.blob(sha)
