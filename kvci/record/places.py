"""The paths of results in a repository, and the branch of results that are not merged yet."""

import re
from collections.abc import Mapping

RESULTS, BENCHMARKS = "ci/results", "BENCHMARKS.md"
PAGE_MAX_BYTES, PAGE_MAX_LINES = 4 << 20, 50_000
RECORD_MAX_BYTES = 20 << 20
"""A pull request with a larger BENCHMARKS.md, or a larger record, is not reviewed."""
UNMERGED = "kvci/results"
"""The branch of rows that are not merged yet."""


def is_record(path: str) -> bool:
    """True if this path of a repository is a record: a JSON file directly in `RESULTS`."""
    return bool(re.fullmatch(rf"{RESULTS}/[^/]+\.json", path))


def touches_results(path: str) -> bool:
    """True if this path is a result, or lies above or below the path of a result."""
    return path == "ci" or bool(re.match(rf"({RESULTS}|{re.escape(BENCHMARKS)})(/|\Z)", path))


def misplaced(tree: Mapping[str, str]) -> list[str]:
    """Return one problem for each path of results that is not what it must be.

    Results are regular files in the folder `RESULTS`, and `BENCHMARKS` is a regular file. If a
    result were a link, kvci would read or write another file. `tree` comes from GitHub.tree: path
    -> blob. The blob is empty if the path is not a regular file.
    """
    below_a_file = rf"({re.escape(BENCHMARKS)}|{RESULTS}/[^/]+\.json)/.+"
    return [
        f"{path[:200]} is a link, a file or a folder where none belongs; results are plain files"
        for path, blob in tree.items()
        if touches_results(path)
        and (not blob or path in ("ci", RESULTS) or re.fullmatch(below_a_file, path, re.S))
    ]
