"""Grade one patch: apply it, run the tests, and give a verdict."""

import base64
import contextlib
import io
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from swebench.harness.constants import END_TEST_OUTPUT, START_TEST_OUTPUT
from swebench.harness.grading import get_eval_report

from kvci.children import in_child
from kvci.files import write_atomic
from kvci.grade.doubt import doubt
from kvci.grade.eval_script import script_of, spec_of
from kvci.rundir.documents import TEST_LOG, Graded
from kvci.sandbox import TREE, Limits, Sandbox, SandboxFailed
from kvci.tasks.row import Row, patched_files
from kvci.taxonomy import Verdict

NOT_APPLIED, NO_REPORT, APPLIED = 33, 34, "kvci-applied"
READ_S = 120.0
"""Seconds in which a test log must be read. Some parsers of swebench need hours for one line."""
RAISED = "exception"
"""The key in a report that names the exception that swebench raised while it read the log."""
OUTPUT_MIB_MAX = 64
"""Tests that print more than this are stopped. Logs of SWE-bench Lite have a few MiB."""
CUT_LOG_CHARS = 1 << 20
"""How much is kept of a log that is too long. One trial must not fill the evidence of a run."""
PREPARE = Limits(wall_s=300.0, cpu_s=600, under_load=True)
APPLY = f"""
base64 -d > /tmp/kvci.patch <<'KVCI_PATCH'
{{patch}}
KVCI_PATCH
cd {TREE}
again() {{{{ git checkout -- . ; git clean -fd; }}}} > /dev/null 2>&1
try() {{{{ "$@" > /tmp/kvci.output 2>&1; }}}}
(
  try git apply --verbose /tmp/kvci.patch && exit
  again; try git apply --verbose --3way /tmp/kvci.patch && exit
  again; try git apply --verbose --reject /tmp/kvci.patch && exit
  again; try patch --batch --forward --fuzz=5 -p1 -i /tmp/kvci.patch && exit
  try git apply --check --reverse /tmp/kvci.patch
) || exit {NOT_APPLIED}
echo {APPLIED}
"""
"""The commands are the same as in swebench's harness.

The last command checks whether the patch is already applied.
"""
CHECK = rf"""
import ast, subprocess, sys
try:
    open("/tmp/kvci.output", "rb").read().decode()
    git_diff = ["git", "-c", "core.fileMode=false", "diff"]
    subprocess.run(git_diff, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout.decode()
except UnicodeDecodeError:
    sys.exit({NO_REPORT})
for name in sys.argv[1:]:
    show = subprocess.run(["git", "show", "HEAD:" + name], capture_output=True)
    try:
        old = show.stdout if show.returncode == 0 else b""
        ast.parse(old)
        new = open(name, "rb").read()
    except (SyntaxError, ValueError, OSError):
        continue
    try:
        ast.parse(new)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        print(name)
"""
"""The harness reads what git says when it applies the patch, and the work tree's diff, as UTF-8. If
it cannot, it gives no report."""


class NotApplied(Exception):
    """The patch does not apply, or the harness cannot go on after it."""


class UnreadableLog(Exception):
    """swebench needs too much time to read a test log."""


def grade(
    row: Row, patch: bytes | None, make: Callable[[], Sandbox], folder: Path, test_s: float
) -> Graded:
    """Grade a patch in its own sandbox, and write the patch and the test log to `folder`.

    The tests are not run for an empty patch. If `patch` is None, the tests run on the base commit
    without a patch. Raises SandboxFailed if the sandbox does not start or stops working.
    """
    if patch is not None and not patch.strip():
        return Graded(verdict=Verdict.EMPTY_PATCH)
    write_atomic(folder / "patch.diff", patch or b"")
    sandbox = make()
    try:
        return _grade(row, patch, sandbox, folder, test_s)
    finally:
        sandbox.close()


def _grade(row: Row, patch: bytes | None, sandbox: Sandbox, folder: Path, test_s: float) -> Graded:
    try:
        broken = "" if patch is None else _prepare(patch, sandbox)
    except NotApplied as error:
        (folder / "report.json").unlink(missing_ok=True)
        return Graded(verdict=Verdict.APPLY_FAILED, detail=str(error), applies=False)
    # A test's status may be anywhere in the output, so the whole output is kept.
    whole = Limits(
        test_s,
        int(test_s * 4) + 1,
        output_mib=OUTPUT_MIB_MAX,
        kept_bytes=OUTPUT_MIB_MAX << 20,
        under_load=True,
    )
    run = sandbox.script(script_of(row), whole)
    log = folder / TEST_LOG
    # As in the harness: tests may print any bytes, but the parsers read UTF-8.
    text = run.output.decode(errors="replace")
    if max(run.output_bytes, len(text.encode())) > OUTPUT_MIB_MAX << 20:
        # Without the end marker, because the log's results are not read.
        write_atomic(log, text[:CUT_LOG_CHARS].partition(END_TEST_OUTPUT)[0])
        detail = f"the tests print more than {OUTPUT_MIB_MAX} MiB"
        return Graded(verdict=Verdict.GRADING_FAILED, detail=detail, applies=True)
    write_atomic(log, text)
    started = START_TEST_OUTPUT.encode() in run.output
    if run.timed_out and started:
        (folder / "report.json").unlink(missing_ok=True)
        return Graded(verdict=Verdict.TEST_TIMEOUT, applies=True, eval_s=run.wall_s)
    if not has_markers(run.output):
        missing = "end" if started else "start"
        detail = f"the test log has no {missing} marker"
        return Graded(verdict=Verdict.GRADING_FAILED, detail=detail, applies=True)
    try:
        found = report(row, patch or b"none", log)
    except UnreadableLog as error:
        (folder / "report.json").unlink(missing_ok=True)
        return Graded(verdict=Verdict.GRADING_FAILED, detail=str(error), applies=True)
    write_atomic(folder / "report.json", json.dumps(found, indent=1))
    f2p, p2p = counts(found)
    verdict = Verdict.TESTS_FAIL
    if found.get("resolved"):
        verdict = Verdict.RESOLVED
    elif broken:
        verdict = Verdict.SYNTAX_ERROR
    elif f2p[1] and f2p[0] == f2p[1]:
        verdict = Verdict.TESTS_BROKEN
    detail = f"swebench cannot read the test log ({found[RAISED]})" if RAISED in found else ""
    return Graded(
        verdict=verdict,
        detail=f"no longer parses: {broken}" if verdict is Verdict.SYNTAX_ERROR else detail,
        applies=True,
        fail_to_pass=f2p,
        pass_to_pass=p2p,
        eval_s=run.wall_s,
        doubt=doubt(row, patch or b"", log, found),
    )


def _prepare(patch: bytes, sandbox: Sandbox) -> str:
    """Apply the patch, and return the Python files that no longer parse.

    The harness gets the patch from JSON, where bytes that are not UTF-8 have been replaced, so the
    same is applied here. One script applies the patch and parses the files, because each start of
    a script costs time. Raises NotApplied, and SandboxFailed if the script ends before that.
    """
    text = patch.decode(errors="replace")
    touched = patched_files(text)
    names = sorted(name for name in touched if name.endswith(".py"))
    done = sandbox.script(
        APPLY.format(patch=base64.encodebytes(text.encode()).decode().rstrip())
        + f"python3 -I - {shlex.join(names)} <<'KVCI_PROGRAM'\n{CHECK}KVCI_PROGRAM\n",
        PREPARE,
    )
    if done.code == NOT_APPLIED:
        raise NotApplied
    if done.code == NO_REPORT:
        raise NotApplied("with the patch, the diff of the work tree or git's output is not UTF-8")
    if done.timed_out:
        raise NotApplied(f"the patch needs more than {PREPARE.wall_s:.0f} s to apply")
    _, applied, broken = done.output.decode(errors="replace").partition(APPLIED)
    if not applied:  # without this, the tests would run on the base commit
        raise SandboxFailed(f"the patch could not be applied ({done.code}, {done.wall_s:.0f} s)")
    if done.code:
        return ""  # a file crashed the parser; the tests show what the file breaks
    return ", ".join(broken.split())


def has_markers(log: bytes) -> bool:
    """True if the log has both markers. Then the tests started and ended."""
    return START_TEST_OUTPUT.encode() in log and END_TEST_OUTPUT.encode() in log


def report(row: Row, patch: bytes, log: Path) -> dict[str, Any]:
    """Return swebench's report of an instance's test log.

    An exception of swebench is the report's value of RAISED, and the instance is not resolved, as
    in the harness: `swebench.harness.run_evaluation.run_instance` catches it and writes no report.
    Raises UnreadableLog if swebench needs too much time or memory to read the log.
    """

    def read() -> dict[str, Any]:
        # Some parsers print names of tests, which the patch can choose.
        with contextlib.redirect_stdout(io.StringIO()):
            return _report(row, patch, log)

    try:
        return cast(dict[str, Any], in_child(read, READ_S))
    except TimeoutError:
        raise UnreadableLog(f"the test log takes more than {READ_S:.0f} s to read") from None
    except EOFError:
        raise UnreadableLog("the process that read the test log ended") from None


def _report(row: Row, patch: bytes, log: Path) -> dict[str, Any]:
    prediction = {
        "instance_id": row.instance_id,
        "model_patch": patch.decode(errors="replace"),
        "model_name_or_path": "kvci",
    }
    try:
        reports: dict[str, dict[str, Any]] = get_eval_report(
            test_spec=spec_of(row),
            prediction=prediction,
            test_log_path=str(log),
            include_tests_status=True,
        )
    except (MemoryError, OSError):
        raise
    except Exception as error:
        return {"resolved": False, RAISED: type(error).__name__}
    return reports[row.instance_id]


def counts(report: dict[str, Any]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (passed tests, all tests) for FAIL_TO_PASS and for PASS_TO_PASS."""
    tests = report.get("tests_status", {})
    found = [tests.get(kind, {}) for kind in ("FAIL_TO_PASS", "PASS_TO_PASS")]
    (f2p, f2f), (p2p, p2f) = (
        (len(kind.get("success", [])), len(kind.get("failure", []))) for kind in found
    )
    return (f2p, f2p + f2f), (p2p, p2p + p2f)
