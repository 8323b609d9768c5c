"""Grade the gold patch, and the base commit without a patch, before any trial."""

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from kvci import __version__
from kvci.files import sha256_of
from kvci.host import cache_folder, host
from kvci.run.attempt import grade_once, no_test_ran
from kvci.run.sandboxes import Sandboxes
from kvci.rundir.directory import resolved
from kvci.rundir.documents import Graded
from kvci.tasks.instance import Instance
from kvci.taxonomy import ATTEMPTS_MAX, Verdict

GOLD_TRIES = 2


def preflight(sandboxes: Sandboxes, instance: Instance, folder: Path, test_s: float) -> Graded:
    """Return the grading of the gold patch. The gold patch must resolve in one of two tries.

    The base commit must not resolve without a patch; if it does, the verdict is tests_fail. This
    machine caches a gold patch that resolves, by kvci's version, image, row and limits. Any other
    verdict excludes the instance, so each run grades it again and has its test logs as evidence.
    """
    cached = _cache_file(sandboxes, instance, test_s)
    if cached and cached.exists() and (known := resolved(Graded.read(cached))):
        return known
    graded = _grade_gold_and_base(sandboxes, instance, folder, test_s)
    if cached and resolved(graded):
        with contextlib.suppress(OSError):  # the next run then grades again
            graded.write(cached)
    return graded


def _grade_gold_and_base(
    sandboxes: Sandboxes, instance: Instance, folder: Path, test_s: float
) -> Graded:
    gold = instance.row.patch.encode()
    grade_gold = partial(grade_once, sandboxes, instance, gold, folder, test_s)
    for _ in range(GOLD_TRIES):
        graded = _with_retries(sandboxes, grade_gold)
        if graded.verdict is Verdict.RESOLVED or no_test_ran(graded):
            break
    if graded.verdict is Verdict.RESOLVED:
        grade_base = partial(grade_once, sandboxes, instance, None, folder / "base", test_s)
        base = _with_retries(sandboxes, grade_base)
        if no_test_ran(base):
            return base
        if base.verdict is Verdict.RESOLVED:
            why = {"verdict": Verdict.TESTS_FAIL, "detail": "the tests pass without any patch"}
            return graded.model_copy(update=why)
    elif graded.applies and sandboxes.has_network and not sandboxes.grade_network:
        online = grade_once(sandboxes, instance, gold, folder / "online", test_s, network=True)
        if online.verdict is Verdict.RESOLVED:
            why = {"detail": "the gold patch resolves only with a network; use --grade-network"}
            return graded.model_copy(update=why)
    return graded


def _with_retries(sandboxes: Sandboxes, grade: Callable[[], Graded]) -> Graded:
    """Return the grading. If infrastructure fails before the tests, repeat it at most twice.

    Raises UserError if no sandbox can be made for a long time, because the instance does not cause
    this.
    """
    for _ in range(ATTEMPTS_MAX):
        if not no_test_ran(graded := grade()):
            break
        sandboxes.wait()
    return graded


def _cache_file(sandboxes: Sandboxes, instance: Instance, test_s: float) -> Path | None:
    """Return the file that caches this row's preflight; None if the row has no known image."""
    from kvci.grade.eval_script import script_of  # slow; only the child needs swebench

    try:
        image, script = sandboxes.identity(instance), script_of(instance.row)
    except Exception:
        return None  # no image, or a row that swebench cannot grade; grading reports this later
    bounds = f"{sandboxes.caps} {sandboxes.grade_network} {test_s}"
    key = f"{__version__} {host()} {image} {bounds} {instance.row.model_dump_json()} {script}"
    return cache_folder() / "preflight" / f"{sha256_of(key.encode())}.json" if image else None
