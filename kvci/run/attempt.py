"""One patch graded, here and now; what infrastructure spoiled is tried again."""

import contextlib
import traceback
from pathlib import Path

from kvci.errors import UserError
from kvci.run.sandboxes import Sandboxes
from kvci.rundir.documents import Graded
from kvci.sandbox import Sandbox, SandboxFailed
from kvci.tasks.instance import Instance
from kvci.taxonomy import ATTEMPTS_MAX, Verdict


def once(
    sandboxes: Sandboxes,
    instance: Instance,
    patch: bytes | None,
    folder: Path,
    test_s: float,
    network: bool = False,
) -> Graded:
    from kvci.grade.patch import grade  # swebench: seconds, and memory only the child needs

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


def graded(
    sandboxes: Sandboxes, instance: Instance, patch: bytes, folder: Path, test_s: float, gold: bool
) -> Graded:
    """Infrastructure failures of grading are graded again, twice.

    `gold` says that the gold patch resolved here. Then a patch whose tests never once reach their
    end kills them itself.
    """
    tries = []
    for _ in range(ATTEMPTS_MAX):
        tries.append(once(sandboxes, instance, patch, folder, test_s))
        if tries[-1].verdict is not Verdict.GRADING_FAILED:
            break
    last = tries[-1]
    if gold and len(tries) == ATTEMPTS_MAX and all(unmarked(graded) for graded in tries):
        why = f"{last.detail}, {ATTEMPTS_MAX} times, while the gold patch's has both"
        return last.model_copy(update={"verdict": Verdict.TESTS_FAIL, "detail": why})
    return last


def limit_s(test_s: float, gold: Graded | None) -> float:
    """For the tests of a patch: at least twice the gold patch's time, where that is known."""
    return max(test_s, 2 * gold.eval_s) if gold else test_s


def unmarked(graded: Graded) -> bool:
    """The tests ran, but their log lacks a marker."""
    return graded.verdict is Verdict.GRADING_FAILED and graded.applies is True


def unknown(graded: Graded) -> bool:
    """Infrastructure or kvci itself failed before a test ran: it says nothing of the patch."""
    failed = graded.verdict is Verdict.GRADING_FAILED and graded.applies is None
    return failed or graded.verdict is Verdict.NOT_GRADED
