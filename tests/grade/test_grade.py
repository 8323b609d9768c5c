"""Grade calibration instances in the real sandbox, with swebench's own code."""

import os
import re
import shlex
from itertools import product
from pathlib import Path

import pytest
from swebench.harness.constants import END_TEST_OUTPUT, START_TEST_OUTPUT
from swebench.harness.log_parsers import PARSER_REGISTRY

from kvci.grade.patch import RAISED, _report, grade, has_markers, report
from kvci.run.attempt import grade_once, lacks_marker
from kvci.run.sandboxes import Sandboxes
from kvci.rundir.documents import Graded
from kvci.sandbox import Caps, Limits, Result, SandboxFailed
from kvci.sandbox.bwrap import Bwrap
from kvci.tasks.calibration import generate
from kvci.tasks.instance import Instance
from kvci.tasks.row import patched_files
from kvci.taxonomy import Verdict

BUGGY = generate("test", 3, functions=5, files=2)
FILE = next(iter(patched_files(BUGGY.row.patch)))


def patch_of(*commands: str) -> bytes:
    box = Bwrap(BUGGY.files)
    try:
        for command in commands:
            box.run(command, Limits())
        return box.diff()
    finally:
        box.close()


GOLD = BUGGY.row.patch.encode()
APPLIED = f"git apply - <<'EOF'\n{BUGGY.row.patch}EOF\n"
CASES: dict[str, tuple[bytes | str, Verdict]] = {
    "gold": (GOLD, Verdict.RESOLVED),
    "empty": (b"", Verdict.EMPTY_PATCH),
    "garbage": (b"Traceback (most recent call last): ...\n", Verdict.APPLY_FAILED),
    "elsewhere": ("echo 'z = 1' > new_file.py", Verdict.TESTS_FAIL),
    "syntax": (f"echo 'def (:' >> {FILE}", Verdict.SYNTAX_ERROR),
    "deep": (
        f"(echo -n 'x = '; printf -- '-%.0s' $(seq 20000); echo 1) >> {FILE}",
        Verdict.SYNTAX_ERROR,
    ),
    "hang": (f"echo 'while True: pass' >> {FILE}", Verdict.TEST_TIMEOUT),
    "kills": (f"echo 'import os; os.kill(os.getppid(), 9)' >> {FILE}", Verdict.GRADING_FAILED),
}


@pytest.mark.parametrize("case", CASES)
def test_each_kind_of_patch_gets_its_verdict(case: str, tmp_path: Path) -> None:
    patch, expected = CASES[case]
    data = patch_of(patch) if isinstance(patch, str) else patch
    found = grade(BUGGY.row, data, lambda: Bwrap(BUGGY.files), tmp_path, test_s=3)
    assert found.verdict is expected, found
    if case == "gold":
        assert (found.fail_to_pass, found.pass_to_pass) == ((1, 1), (4, 4))


@pytest.mark.parametrize("timed_out", [True, False])
def test_a_patch_that_is_slow_to_apply_does_not_apply(timed_out: bool, tmp_path: Path) -> None:
    """A sandbox that ends is infrastructure."""

    class Ends(Bwrap):
        def script(self, text: str, limits: Limits) -> Result:
            assert limits.under_load  # else a busy machine would make a patch not apply
            return Result(b"", 137, timed_out, 0, 60.0)

    def graded() -> Graded:
        return grade(BUGGY.row, GOLD, lambda: Ends(BUGGY.files), tmp_path, 20.0)

    if timed_out:
        assert graded().verdict is Verdict.APPLY_FAILED
    else:
        with pytest.raises(SandboxFailed, match="could not be applied"):
            graded()


@pytest.mark.parametrize("mib", [0.5, 2])
def test_a_log_that_is_too_long_is_cut(
    mib: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One trial must not fill the evidence. A byte that is not UTF-8 becomes three in the log."""
    monkeypatch.setattr("kvci.grade.patch.OUTPUT_MIB_MAX", 1)
    monkeypatch.setattr("kvci.grade.patch.CUT_LOG_CHARS", 1 << 10)
    say = f"import os; os.write(2, b'\\xff' * {int(mib * (1 << 20))} + b'\\n{END_TEST_OUTPUT}\\n')"
    patch = patch_of(APPLIED, f"echo {shlex.quote(say)} >> {FILE}")
    found = grade(BUGGY.row, patch, lambda: Bwrap(BUGGY.files), tmp_path, test_s=20)
    assert lacks_marker(found) and found.detail == "the tests print more than 1 MiB"
    log = (tmp_path / "test_output.txt").read_bytes()
    assert len(log) <= 3 << 10 and not has_markers(log)


def test_a_patch_breaks_other_tests(tmp_path: Path) -> None:
    other = BUGGY.row.PASS_TO_PASS[0].partition("::test_")[2]
    file = next(name for name, text in BUGGY.files.items() if f"def {other}(" in text)
    patch = patch_of(APPLIED, f"echo '{other} = None' >> {file}")
    found = grade(BUGGY.row, patch, lambda: Bwrap(BUGGY.files), tmp_path, test_s=20)
    assert found.verdict is Verdict.TESTS_BROKEN
    assert found.pass_to_pass == (3, 4)


def test_an_unreadable_log_gives_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the time limit, the worker and the run would never end. No signal ends this."""

    def endless(**_: object) -> None:
        re.search(r"ab\w*:", "ab" * 5_000_000)

    monkeypatch.setattr("kvci.grade.patch.get_eval_report", endless)
    monkeypatch.setattr("kvci.grade.patch.READ_S", 1.0)
    found = grade(BUGGY.row, GOLD, lambda: Bwrap(BUGGY.files), tmp_path, test_s=20)
    assert lacks_marker(found) and "takes more than 1 s to read" in found.detail


def test_a_log_that_needs_too_much_memory_gives_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvci.grade.patch.get_eval_report", lambda **_: os._exit(137))
    found = grade(BUGGY.row, GOLD, lambda: Bwrap(BUGGY.files), tmp_path, test_s=20)
    assert lacks_marker(found) and "process that read the test log ended" in found.detail


HOSTILE = ("FAIL:\n", "ERROR:\n", "<doctest", "", "✕", "×", "{\n")
"""Lines on which a parser of swebench raises, or may raise in another version."""
COMMANDS = ("./node_modules/.bin/mocha tests/run.js --reporter json", "./node_modules/.bin/jest")
"""Some parsers begin after the trace of these commands."""


RAISE = {
    f"parse_log_{name}"
    for name in ("calypso", "django", "doctest", "immutable_js", "jekyll", "prismjs")
}
"""The parsers of swebench 5.0.2 that raise on one of the lines; two of them because of the id."""


def test_a_parser_that_raises_gives_not_resolved(tmp_path: Path) -> None:
    lines = [*HOSTILE, *(f"+ {one} {line}" for one in COMMANDS for line in HOSTILE)]
    raising, log = set(), tmp_path / "log"
    for parser, line in product(PARSER_REGISTRY, lines):
        log.write_text(f"{START_TEST_OUTPUT}\n{line}\n{END_TEST_OUTPUT}\n")
        found = _report(BUGGY.row.model_copy(update={"log_parser": parser}), GOLD, log)
        assert found["resolved"] is False
        if RAISED in found:
            raising.add(parser)
    assert raising == RAISE


def test_what_a_parser_prints_reaches_no_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    row = BUGGY.row.model_copy(update={"log_parser": "parse_log_gradle_custom"})
    log = tmp_path / "log"
    log.write_text(f"{START_TEST_OUTPUT}\n\33[2Ja.Test > x\n{END_TEST_OUTPUT}\n")
    report(row, GOLD, log)
    assert capfd.readouterr().out == ""


def test_a_log_that_its_parser_cannot_read_fails(tmp_path: Path) -> None:
    patch = patch_of(APPLIED, f"echo \"print('FAIL:')\" >> {FILE}")
    row = BUGGY.row.model_copy(update={"log_parser": "parse_log_django"})
    django = Instance(row, BUGGY.files)
    found = grade_once(Sandboxes("bwrap", tmp_path, Caps()), django, patch, tmp_path, 20.0)
    assert found.verdict is Verdict.TESTS_FAIL and found.applies
    assert found.detail == "swebench cannot read the test log (IndexError)"


def test_a_row_that_swebench_cannot_grade_is_no_failure(tmp_path: Path) -> None:
    for wrong in ({"log_parser": "parse_log_none"}, {"eval_type": "none"}):
        odd = Instance(BUGGY.row.model_copy(update=wrong), BUGGY.files)
        found = grade_once(Sandboxes("bwrap", tmp_path, Caps()), odd, GOLD, tmp_path, 20.0)
        assert found.verdict is Verdict.NOT_GRADED


def test_a_log_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    program = r"import os; os.write(1, b'caf\xe9\n')"
    patch = patch_of(APPLIED, f'echo "{program}" >> {FILE}')
    found = grade(BUGGY.row, patch, lambda: Bwrap(BUGGY.files), tmp_path, test_s=20)
    assert found.verdict is Verdict.RESOLVED, found
    assert "caf\ufffd" in (tmp_path / "test_output.txt").read_text()


def test_a_log_of_megabytes_keeps_every_status(tmp_path: Path) -> None:
    loud = "import atexit; print('x' * 25_000_000); atexit.register(print, 'y' * 25_000_000)"
    patch = patch_of(APPLIED, f'echo "{loud}" >> {FILE}')
    found = grade(BUGGY.row, patch, lambda: Bwrap(BUGGY.files), tmp_path, test_s=20)
    assert found.verdict is Verdict.RESOLVED, found
