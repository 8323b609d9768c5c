"""Check that an instance is invalid, from the test logs of its gold patch and its base commit."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from kvci.grade.patch import UnreadableLog, has_markers, report
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import Graded, Outcome
from kvci.tasks.row import Row
from kvci.taxonomy import Class, Verdict

LOGGED = {Verdict.TESTS_FAIL, Verdict.TESTS_BROKEN, Verdict.SYNTAX_ERROR, Verdict.TEST_TIMEOUT}
"""The verdicts of a gold patch that have a test log. For the others, the runner's word stands."""


def invalid_difference(row: Row, one: Outcome, directory: RunDirectory) -> str:
    """Return why this instance is not invalid; empty if it is, or if a log is missing."""
    folder = _folder(directory, one)
    if not (folder / "graded.json").exists():
        return "its instance is invalid, but the gold patch was not graded"
    verdict = Graded.read(folder / "graded.json").verdict
    if verdict is Verdict.RESOLVED or verdict is not one.verdict:
        return f"its instance is invalid, but the gold patch's verdict is {verdict}"
    gold, base = folder / "test_output.txt", folder / "base" / "test_output.txt"
    if verdict not in LOGGED or not gold.exists() or not _resolves(row, row.patch.encode(), gold):
        return ""
    if base.exists() and _resolves(row, b"none", base):
        return ""  # the tests pass without any patch
    return "its instance is invalid, but the test logs show that the gold patch resolves it"


def without_log(directories: Iterable[RunDirectory]) -> list[str]:
    """Return a line if invalid instances have no test log."""
    lacking = {
        one.instance
        for directory in directories
        for one, graded in _invalid(directory)
        if graded.verdict in LOGGED and not (_folder(directory, one) / "test_output.txt").exists()
    }
    if not lacking:
        return []
    return [
        f"no test log shows that {len(lacking)} instances are invalid, as in evidence of an "
        f"earlier kvci: {', '.join(sorted(lacking)[:3])}"
    ]


def _invalid(directory: RunDirectory) -> Iterator[tuple[Outcome, Graded]]:
    for one in directory.outcomes():
        file = _folder(directory, one) / "graded.json"
        if one.cls is Class.I0 and file.exists():
            yield one, Graded.read(file)


def _folder(directory: RunDirectory, one: Outcome) -> Path:
    return directory.path / "preflight" / one.host / one.instance


def _resolves(row: Row, patch: bytes, log: Path) -> bool:
    """True if the tests in a log ended, and swebench's report of them says resolved."""
    try:
        return has_markers(log.read_bytes()) and bool(report(row, patch, log).get("resolved"))
    except UnreadableLog:
        return False
