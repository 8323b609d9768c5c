"""Find doubts in test logs: honest logs of every form have none."""

from pathlib import Path

import pytest

from kvci.grade.doubt import doubt
from kvci.grade.eval_script import script_of
from kvci.tasks.calibration import generate
from kvci.tasks.row import Row

SUITE = generate("test", 1, functions=3).row
TESTS = (*SUITE.FAIL_TO_PASS, *SUITE.PASS_TO_PASS)
PASSED = "".join(f"PASSED {name}\n" for name in TESTS)
FOUND = {"resolved": True, "tests_status": {}}


def row(echo: bool) -> Row:
    """A row whose script traces its commands, and echoes its markers or only traces them."""
    word = "echo" if echo else ":"
    script = f"set -uxo pipefail\n{word} '>>>>> Start Test Output'\ntrue\n"
    script += f"{word} '>>>>> End Test Output'\n"
    return SUITE.model_copy(update={"repo": "o/r", "eval_script": script})


def log_of(echo: bool, results: str, code: int = 0) -> str:
    """The log that bash makes of such a script."""

    def mark(text: str) -> str:
        return f"+ echo '>>>>> {text}'\n>>>>> {text}\n" if echo else f"+ : '>>>>> {text}'\n"

    end = f"+ echo '>>>>> Test Exit Code: {code}'\n>>>>> Test Exit Code: {code}\n"
    return mark("Start Test Output") + results + mark("End Test Output") + end


@pytest.mark.parametrize("echo", [True, False])
def test_markers_are_counted_as_the_script_prints_them(echo: bool, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(log_of(echo, PASSED))
    assert doubt(row(echo), b"", path, FOUND) == ""
    for marker in (">>>>> Start Test Output", ">>>>> End Test Output", ">>>>> Test Exit Code: 0"):
        path.write_text(log_of(echo, f"{marker}\n{PASSED}"))
        assert doubt(row(echo), b"", path, FOUND) == "a marker that the script did not print"


def test_unknown_way_to_print_markers_is_not_judged(tmp_path: Path) -> None:
    other = row(False).eval_script.replace(": '", "printf '%s\\n' '")
    odd = row(False).model_copy(update={"eval_script": other})
    assert "printf" in script_of(odd)
    path = tmp_path / "log"
    path.write_text(log_of(True, PASSED))
    assert doubt(odd, b"", path, FOUND) == ""


def test_results_of_other_tests_outside_the_markers_are_no_doubt(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(f"PASSED others\n{log_of(False, PASSED)}PASSED others\n")
    assert doubt(row(False), b"", path, FOUND) == ""
    path.write_text(f"{log_of(False, PASSED)}{PASSED}")
    assert doubt(row(False), b"", path, FOUND) == "results outside the markers"


def test_log_that_the_harness_refuses_is_a_doubt(tmp_path: Path) -> None:
    path, refused = tmp_path / "log", {"resolved": False}
    path.write_text(log_of(False, PASSED, 1))
    assert "exit code" in doubt(row(False), b"", path, refused)
    path.write_text(log_of(False, "nothing\n", 1))
    assert doubt(row(False), b"", path, refused) == "", "tests that could not start"


def test_files_of_the_gold_patch_are_no_doubt(tmp_path: Path) -> None:
    path, patch = tmp_path / "log", "diff --git a/tests/conftest.py b/tests/conftest.py\n"
    path.write_text(log_of(False, PASSED))
    assert doubt(row(False), patch.encode(), path, FOUND) == "a patch with a conftest.py"
    for column in ("patch", "test_patch"):
        gold = row(False).model_copy(update={column: patch})
        assert doubt(gold, patch.encode(), path, FOUND) == ""


def test_hostile_output_is_examined_in_seconds(tmp_path: Path) -> None:
    line = "_" * 200 + " " + ".py:" * 70
    path = tmp_path / "log"
    path.write_text((f"{line}\n" * 20_000) + log_of(False, PASSED) + "x" * 10_000_000)
    slow = row(False).model_copy(update={"log_parser": "parse_log_sympy"})
    assert doubt(slow, b"", path, FOUND) == ""
