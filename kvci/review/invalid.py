"""Check that an instance is invalid, from the test logs of its gold patch and its base commit."""

from collections.abc import Iterable
from pathlib import Path

from kvci.grade.patch import UnreadableLog, report
from kvci.review.verdicts import finished
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import TEST_LOG, UNGRADED, Graded, Outcome
from kvci.tasks.row import Row
from kvci.taxonomy import Class, Verdict
from kvci.units import counted

UNSHOWN = {Verdict.TEST_TIMEOUT, *UNGRADED}
"""The verdicts of a gold patch that no test log shows."""


def invalid_difference(row: Row, one: Outcome, directory: RunDirectory) -> str:
    """Return why this instance is not invalid; empty if it is, or if no finished log shows it."""
    folder = _folder(directory, one)
    if not (folder / "graded.json").exists():
        return "its instance is invalid, but the gold patch was not graded"
    verdict = Graded.read(folder / "graded.json").verdict
    if verdict is Verdict.RESOLVED or verdict is not one.verdict:
        return f"its instance is invalid, but the gold patch's verdict is {verdict}"
    gold, base = folder / TEST_LOG, folder / "base" / TEST_LOG
    if verdict in UNSHOWN or not _resolves(row, row.patch.encode(), gold):
        return ""
    if _resolves(row, b"none", base):
        return ""  # the tests pass without any patch
    return "its instance is invalid, but the test logs show that the gold patch resolves it"


def shown_invalid(directory: RunDirectory, one: Outcome) -> bool:
    """True if a finished test log of the gold patch shows whether this instance is invalid."""
    return one.verdict not in UNSHOWN and finished(_folder(directory, one) / TEST_LOG)


def without_log(directories: Iterable[RunDirectory]) -> list[str]:
    """Return a line if no finished test log shows that instances are invalid."""
    lacking = {
        one.instance
        for directory in directories
        for one in directory.outcomes()
        if one.cls is Class.I0 and not shown_invalid(directory, one)
    }
    if not lacking:
        return []
    return [
        f"no finished test log shows that {counted(len(lacking), 'instance')} may be dropped as "
        f"invalid: {', '.join(sorted(lacking)[:3])}"
    ]


def _folder(directory: RunDirectory, one: Outcome) -> Path:
    return directory.path / "preflight" / one.host / one.instance


def _resolves(row: Row, patch: bytes, log: Path) -> bool:
    """True if the tests in a log ended, and swebench's report of them says resolved."""
    try:
        return finished(log) and bool(report(row, patch, log).get("resolved"))
    except UnreadableLog:
        return False
