"""Recompute verdicts from test logs, and count the verdicts that no finished test log shows."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from kvci.grade.doubt import doubt
from kvci.grade.patch import UnreadableLog, counts, has_markers, report
from kvci.review.excluded import ALLOWED, exceeds
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import TEST_LOG, UNGRADED, Outcome
from kvci.tasks.row import Row
from kvci.taxonomy import Verdict

TESTED = {Verdict.RESOLVED, Verdict.TESTS_FAIL, Verdict.TESTS_BROKEN, Verdict.SYNTAX_ERROR}
"""The verdicts that a finished test log gives."""


def finished(log: Path) -> bool:
    """True if the tests of a log started and ended."""
    return log.exists() and has_markers(log.read_bytes())


def log_of(directory: RunDirectory, one: Outcome) -> Path:
    return directory.trial(one.trial) / "grade" / TEST_LOG


def verdict_problem(row: Row, one: Outcome, folder: Path, test_s: float) -> str:
    """Return how a trial's verdict differs from its test log; empty if they agree.

    `test_s` is the shortest time after which a test run may be ended.
    """
    log, patch = folder / "grade" / TEST_LOG, folder / "patch.diff"
    verdict = one.verdict
    if verdict is Verdict.TEST_TIMEOUT and one.eval_s < test_s:
        return f"its verdict is {verdict}, but its tests took {one.eval_s} s of {test_s:.0f}"
    if verdict is Verdict.APPLY_FAILED and finished(log):
        return f"its verdict is {verdict}, but its tests ran"
    if verdict not in TESTED:
        return ""
    if not (log.exists() and patch.exists()):
        return f"its verdict is {verdict}, but its test log or its patch is missing"
    if one.applies is not True:
        return f"its verdict is {verdict}, but its patch was not applied"
    failed = verdict is Verdict.TESTS_FAIL
    if not finished(log):
        return "" if failed else f"its verdict is {verdict}, but its tests did not end"
    try:
        found = report(row, patch.read_bytes(), log)
    except UnreadableLog as error:
        return "" if failed else f"its verdict is {verdict}, but {error}"
    resolved, tests = bool(found.get("resolved")), counts(found)
    if resolved != (verdict is Verdict.RESOLVED):
        gives = "resolved" if resolved else "not resolved"
        return f"its verdict is {verdict}, but its test log gives {gives}"
    if tests != (one.fail_to_pass, one.pass_to_pass):
        recorded = f"{one.fail_to_pass} and {one.pass_to_pass}"
        return f"it counts {recorded} tests, but its test log gives {tests[0]} and {tests[1]}"
    doubtful = doubt(row, patch.read_bytes(), log, found)
    # kvci 0.1.0 looked for no doubts, and wrote no digest of a conversation (`tied.loose`).
    if doubtful != one.doubt and not (one.doubt is None and not one.trajectory_sha256):
        gives = f"gives {doubtful!r}" if doubtful else "gives no doubt"
        return f"its doubt is {one.doubt!r}, but its test log {gives}"
    return ""


def shown(directory: RunDirectory, one: Outcome) -> bool:
    """True if the files of a trial show its verdict: the finished test log, or the empty patch."""
    tested = one.verdict in TESTED and finished(log_of(directory, one))
    return tested or one.verdict is Verdict.EMPTY_PATCH


def finished_without_verdict(directories: Iterable[RunDirectory]) -> list[str]:
    """Return a line for each arm with finished test logs of which the verdict says nothing.

    Such a verdict is possible, but rare: a process of the tests that does not end keeps a test run
    going after its last line, and kvci may fail while it reads a log.
    """
    ignored = {Verdict.TEST_TIMEOUT, *UNGRADED}
    arms = Counter(
        (one.arm, one.verdict)
        for directory in directories
        for one in directory.outcomes()
        if one.has_patch
        and not one.waits
        and one.verdict in ignored
        and finished(log_of(directory, one))
    )
    return [
        f"{arm}: the tests of {count} trials ended, as their logs show, but their verdict is "
        f"{verdict}; kvci grade --all RUN grades them again"
        for (arm, verdict), count in arms.items()
    ]


def too_many_unfinished(directories: Sequence[RunDirectory]) -> list[str]:
    """Return a line for each arm with too many failing verdicts that no finished test log shows.

    A runner can make such a verdict from any other one. See `excluded.exceeds`.
    """
    arms: defaultdict[str, set[tuple[str, int]]] = defaultdict(set)
    for directory in directories:
        for one in directory.outcomes():
            if one.has_patch and one.verdict not in UNGRADED and not shown(directory, one):
                arms[one.arm].add((one.instance, one.seed))
    spec, planned = directories[0].spec, sum(len(each.manifest.planned) for each in directories)
    baseline, total = arms[spec.arms[0].id], planned * len(spec.seeds)
    return [
        f"{arm}: no finished test log shows {len(own)} of {total} verdicts; {ALLOWED}"
        for arm, own in arms.items()
        if exceeds(own, baseline, total, spec.alpha)
    ]
