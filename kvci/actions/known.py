"""The records that this repository has: of the work tree, and of the branch of unmerged rows."""

import hashlib
from pathlib import Path

from kvci.publish.branch import RESULTS, is_record
from kvci.publish.github import GitHub
from kvci.record.record import Record, file_name, parse, read_all


def records(github: GitHub, branch: str) -> list[Record]:
    """Those of `branch` in place of the work tree's, where it has them."""
    here = {f"{RESULTS}/{file_name(one.row_id)}": one for one in read_all(Path(RESULTS))}
    commit = github.branch(branch)
    for path, sha in github.tree(commit).items() if commit else ():
        if sha and is_record(path) and not _is_here(path, sha):
            here[path] = parse(github.blob(sha), path)
    return [record for record in here.values() if isinstance(record, Record)]


def shards_of(run: list[Record]) -> int:
    """Into how many shards a run was divided; 0 if none of its trials is known."""
    return max((record.shards for record in run if record.counted), default=0)


def _is_here(path: str, sha: str) -> bool:
    """This blob of git's is the file of the work tree."""
    place = Path(path)
    content = place.read_bytes() if place.exists() else b""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == sha
