"""The records that this repository has: of the work tree, and of the branch of unmerged rows."""

import hashlib
from pathlib import Path

from kvci.github import GitHub
from kvci.record.places import RESULTS, is_record
from kvci.record.schema import Record
from kvci.record.store import file_name, parse, read_all


def records(github: GitHub, branch: str) -> list[Record]:
    """Those of `branch` in place of the work tree's, where it has them."""
    here = {f"{RESULTS}/{file_name(one.row_id)}": one for one in read_all(Path(RESULTS))}
    commit = github.branch(branch)
    for path, sha in github.tree(commit).items() if commit else ():
        if sha and is_record(path):
            here[path] = parse(content(github, path, sha), path)
    return [record for record in here.values() if isinstance(record, Record)]


def shards_of(run: list[Record]) -> int:
    """Into how many shards a run was divided; 0 if none of its trials is known."""
    return max((record.shards for record in run if record.counted), default=0)


def content(github: GitHub, path: str, sha: str) -> bytes:
    """Of this blob of git's: the work tree's file, where it is that, for each that GitHub is asked
    for counts."""
    place = Path(path)
    here = place.read_bytes() if place.is_file() else b""
    blob = hashlib.sha1(b"blob %d\0" % len(here) + here).hexdigest()
    return here if blob == sha else github.blob(sha)
