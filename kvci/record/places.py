"""The paths of results in a repository, and the branch that has them before they are merged."""

import re
from collections.abc import Mapping

RESULTS, BENCHMARKS = "ci/results", "BENCHMARKS.md"
UNMERGED = "kvci/results"
"""The branch of rows that are not merged yet."""


def is_record(path: str) -> bool:
    """True if this path of a repository is a record; other files below the folder are not."""
    return bool(re.fullmatch(rf"{RESULTS}/[^/]+\.json", path))


def touches_results(path: str) -> bool:
    """True if this path is a result, a parent of one, or lies below the place of one."""
    return path == "ci" or bool(re.match(rf"({RESULTS}|{re.escape(BENCHMARKS)})(/|\Z)", path))


def misplaced(tree: Mapping[str, str]) -> list[str]:
    """Return a problem for each path of a commit where a result must be a regular file.

    Through a link, another file would be read or written in place of a result. `tree` comes from
    GitHub.tree: path -> blob, empty for what is not a regular file.
    """
    below_a_file = rf"({re.escape(BENCHMARKS)}|{RESULTS}/[^/]+\.json)/.+"
    return [
        f"{path[:200]} is a link, a file or a folder where none belongs; results are plain files"
        for path, blob in tree.items()
        if touches_results(path)
        and (not blob or path in ("ci", RESULTS) or re.fullmatch(below_a_file, path, re.S))
    ]
