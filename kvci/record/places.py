"""Where results lie in a repository, and on which branch before they are merged."""

import re
from collections.abc import Mapping

RESULTS, BENCHMARKS = "ci/results", "BENCHMARKS.md"
UNMERGED = "kvci/results"
"""The branch of rows that nobody has merged yet."""


def is_record(path: str) -> bool:
    """Of a file of the repository; what else lies below the folder is nobody's row."""
    return bool(re.fullmatch(rf"{RESULTS}/[^/]+\.json", path))


def is_near(path: str) -> bool:
    """It is a result, or it stands where one would be, above it or below."""
    return path == "ci" or bool(re.match(rf"({RESULTS}|{re.escape(BENCHMARKS)})(/|\Z)", path))


def crooked(tree: Mapping[str, str]) -> list[str]:
    """What of a commit stands in the way of its results, which are plain files in a plain folder:
    through a link others would be read in their place, or written. `tree` is GitHub.tree's."""
    inside = rf"({re.escape(BENCHMARKS)}|{RESULTS}/[^/]+\.json)/.+"
    return [
        f"{path[:200]} is a link, a file or a folder where none belongs; results are plain files"
        for path, blob in tree.items()
        if is_near(path)
        and (not blob or path in ("ci", RESULTS) or re.fullmatch(inside, path, re.S))
    ]
