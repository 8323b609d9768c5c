"""Grade one patch in this process, and grade it again if infrastructure fails."""

import contextlib
import traceback
from pathlib import Path

from kvci.errors import UserError
from kvci.run.sandboxes import Sandboxes
from kvci.rundir.documents import ATTEMPTS, UNGRADED, Attempts, Graded, now
from kvci.sandbox import Sandbox, SandboxFailed
from kvci.tasks.instance import Instance
from kvci.taxonomy import ATTEMPTS_MAX, Verdict


def grade_once(
    sandboxes: Sandboxes,
    instance: Instance,
    patch: bytes | None,
    folder: Path,
    test_s: float,
    network: bool = False,
) -> Graded:
    """Return the grading of one patch; an exception becomes a verdict.

    If `patch` is None, the base commit is graded without a patch. The tests may take `test_s`
    seconds. Logs are written into `folder`.
    """
    from kvci.grade.patch import grade  # slow; only the child needs swebench

    def make() -> Sandbox:
        return sandboxes.make(instance, network or sandboxes.grade_network)

    try:
        return grade(instance.row, patch, make, folder, test_s)
    except SandboxFailed as error:
        with contextlib.suppress(UserError):
            sandboxes.wait()
        return Graded(verdict=Verdict.GRADING_FAILED, detail=str(error))
    except Exception:
        return Graded(verdict=Verdict.NOT_GRADED, detail=traceback.format_exc())


def grade_with_retries(
    sandboxes: Sandboxes,
    instance: Instance,
    patch: bytes,
    folder: Path,
    test_s: float,
    gold_resolved: bool,
) -> Graded:
    """Return the grading of one patch. If infrastructure fails, repeat it at most twice.

    The start marker or the end marker may be missing in the test log of every attempt. If the gold
    patch resolved on this machine, then the patch itself kills the tests, and its verdict is
    tests_fail.
    """
    attempts, accounts = [], []
    for _ in range(ATTEMPTS_MAX):
        started = now()
        attempts.append(last := grade_once(sandboxes, instance, patch, folder, test_s))
        if last.verdict not in UNGRADED:
            break
        accounts.append(sandboxes.account(started, last.verdict, last.detail))
        if last.verdict is not Verdict.GRADING_FAILED:
            break
    if accounts:
        Attempts(attempts=tuple(accounts)).write(folder / ATTEMPTS)
    if gold_resolved and len(attempts) == ATTEMPTS_MAX and all(map(lacks_marker, attempts)):
        why = f"{last.detail}, in {ATTEMPTS_MAX} attempts; the gold patch's log has both markers"
        return last.model_copy(update={"verdict": Verdict.TESTS_FAIL, "detail": why})
    return last


def time_limit_s(test_s: float, gold: Graded | None) -> float:
    """Return the seconds that a patch's tests may take.

    If the time of the gold patch's tests is known, the result is at least twice that time.
    """
    return max(test_s, 2 * gold.eval_s) if gold else test_s


def lacks_marker(graded: Graded) -> bool:
    """True if the patch applies, but the test log has no start marker or no end marker."""
    return graded.verdict is Verdict.GRADING_FAILED and graded.applies is True


def no_test_ran(graded: Graded) -> bool:
    """True if infrastructure or kvci itself failed before the tests ran."""
    failed = graded.verdict is Verdict.GRADING_FAILED and graded.applies is None
    return failed or graded.verdict is Verdict.NOT_GRADED
