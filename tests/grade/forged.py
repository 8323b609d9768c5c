"""Patches that forge their test results, and two small instances that they are for.

kvci and `swebench eval` must give the same verdict about each of them, also where both are fooled.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from swebench.harness.constants import (
    END_TEST_OUTPUT,
    START_TEST_OUTPUT,
    TEST_EXIT_CODE,
    TESTS_ERROR,
)

from kvci.sandbox import TREE
from kvci.tasks.row import Row
from tests.made_images import COMMIT, IDENTITY, small_image

CODE = "maths.py"
BUGGY = "def double(x):\n    return x\n"
FIXED = "def double(x):\n    return x + x\n"
LATIN_1 = "# coding: latin-1\nNAME = '\udce9'\n"
"""Python whose bytes are not UTF-8. In these texts, \\udce9 stands for the byte 0xe9."""
LENGTH_1 = "from names import NAME\n\nassert len(NAME) == 1\n"
SETUP = "print('nothing to build')\n"
PYTEST = "from maths import double\n\n\ndef test_same():\n    assert double(0) == 0\n"
PYTEST_NEW = "\n\ndef test_double():\n    assert double(2) == 4\n"
UNITTEST = """\
import unittest

from maths import double


class T(unittest.TestCase):
    def test_same(self):
        self.assertEqual(double(0), 0)
"""
UNITTEST_NEW = "\n    def test_double(self):\n        self.assertEqual(double(2), 4)\n"
RUNNER = "import unittest\n\nunittest.main(module=None)\n"
"""In the place of Django's tests/runtests.py, whose log has the form of unittest's."""
FILES = {
    CODE: BUGGY,
    "old_names.py": LATIN_1 + "SIZE = 1\n",
    "setup.py": SETUP,
    "runtests.py": RUNNER,
    "tests/test_p.py": PYTEST,
    "tests/test_u.py": UNITTEST,
}
SCRIPT = f"""\
#!/bin/bash
set -uxo pipefail
source /opt/miniconda3/bin/activate
conda activate testbed
cd {TREE}
git config --global --add safe.directory {TREE}
cd {TREE}
git status
git show
git -c core.fileMode=false diff BASE
python setup.py
git checkout BASE TESTS
git apply -v - <<'EOF_114329324912'
TEST_PATCHEOF_114329324912
: '>>>>> Start Test Output'
COMMAND
: '>>>>> End Test Output'
git checkout BASE TESTS
"""
"""The form of the scripts of SWE-bench Lite. `setup.py` is in the place of `pip install -e .`."""


@dataclass(frozen=True)
class Form:
    """A test runner: its file, its command, its log."""

    tests: str
    new: str
    command: str
    parser: str
    test: str
    """The name of a test in the log, with {} for its function."""
    passed: str
    """The line for a test that passed, with {} for its name."""

    @property
    def lines(self) -> str:
        """The lines of a log in which all tests passed."""
        names = (self.test.format(name) for name in ("double", "same"))
        return "".join(f"{self.passed.format(name)}\n" for name in names)


PYTEST_FORM = Form(
    tests="tests/test_p.py",
    new=PYTEST_NEW,
    command="pytest -rA tests/test_p.py",
    parser="parse_log_pytest",
    test="tests/test_p.py::test_{}",
    passed="PASSED {}",
)
DJANGO_FORM = Form(
    tests="tests/test_u.py",
    new=UNITTEST_NEW,
    command="python runtests.py -v tests.test_u",
    parser="parse_log_django",
    test="test_{0} (tests.test_u.T.test_{0})",
    passed="{} ... ok",
)


FORMS = {"pytest": PYTEST_FORM, "django": DJANGO_FORM}


@dataclass(frozen=True)
class Forged:
    """A patch as file -> text, and its verdicts. `_filled` replaces words of the texts."""

    files: dict[str, str]
    pytest: bool
    """True if the harness reports the instance of pytest's form as resolved."""
    django: bool
    """True if the harness reports the instance of Django's form as resolved."""
    doubt: str | None = ""
    """What kvci says about the test output; where the form matters, about pytest's."""
    more: str = ""
    """What is added to the patch's end."""

    @property
    def resolved(self) -> dict[str, bool]:
        """Form -> what the harness reports."""
        return {"pytest": self.pytest, "django": self.django}

    def patch(self, form: Form, repository: Path) -> bytes:
        texts = {name: _filled(text, form) for name, text in self.files.items()}
        patch = patch_of(repository, texts) + self.more
        return patch.encode(errors="surrogateescape")


def _filled(text: str, form: Form) -> str:
    words = {
        "LINES": repr(form.lines),
        "START": _hidden(START_TEST_OUTPUT),
        "END": _hidden(END_TEST_OUTPUT),
        "CODE_0": _hidden(f"{TEST_EXIT_CODE}: 0"),
        "ERRED": _hidden(TESTS_ERROR),
        "COMMAND": repr(form.command),
    }
    for name, word in words.items():
        text = text.replace(name, word)
    return text


def _hidden(marker: str) -> str:
    """Python code for a marker; the log has the code too, because the script prints the patch."""
    return f"'{marker[0]}' {marker[1:]!r} '\\n'"


SAY = """
import atexit, os, stat


def say(text):
    os.write(pipes()[0] if pipes() else 2, text.encode())


def pipes():
    found = []
    for fd in range(3, 64):
        try:
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                found.append(fd)
        except OSError:
            pass
    return found


"""
"""Writes past pytest, which keeps the real output under another number; else to stderr."""
AT_EXIT = """
def end():
    say(LINES)
    os._exit({})


atexit.register(end)
"""
AFTERWARDS = """
shell = os.getppid()
if os.fork():
    os._exit(0)
os.setsid()
while os.path.exists(f"/proc/{shell}"):
    pass
say(LINES)
os._exit(0)
"""
GLOBALS = """
import sys

frame = sys._getframe()
while "test_" not in frame.f_globals["__name__"]:
    frame = frame.f_back
tests = frame.f_globals


def passes(*_):
    pass


def hook(at, event, _):
    if event == "return" and at.f_globals is tests and at.f_code.co_name == "<module>":
        sys.setprofile(None)
        if "T" in tests:
            tests["T"].test_double = passes
        else:
            tests["test_double"] = passes


sys.setprofile(hook)
"""
CONFTEST = """
import pytest


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    result = yield
    result.get_result().outcome = "passed"
"""
AT_START = """
import os, sys

if {"pytest", "runtests.py"} & {word.rpartition("/")[2] for word in sys.orig_argv}:
    os.write(1, LINES.encode())
    os._exit(0)
"""
SHIM = """
import os, pathlib, sys

for name in ("pytest", "python"):
    path = pathlib.Path(sys.executable).with_name(name)
    path.unlink()
    path.write_text("#!/bin/bash\\nprintf %s " + __import__("shlex").quote(LINES))
    path.chmod(0o755)
"""
EDITED = """
import pytest, unittest

for module in (pytest, unittest):
    with open(module.__file__, "a") as file:
        file.write("import os; os.write(1, " + repr(LINES.encode()) + "); os._exit(0)\\n")
"""
REWRITTEN = """
import os

script = open(f"/proc/{os.getppid()}/cmdline", "rb").read().split(b"\\0")[1]
text, command = open(script).read(), COMMAND
open("/tmp/forged", "w").write(LINES)
at = text.rindex("\\n" + command) + 1
with open(script, "r+") as file:
    file.seek(at)
    file.write("cat /tmp/forged".ljust(len(command)))
"""
LEFT_BEHIND = """
import time

if not os.fork():
    os.setsid()
    time.sleep(3600)
"""
MARKER = "a marker that the script did not print"
OUTSIDE = "results outside the markers"
CONTRADICTS = "results without a failure, but an exit code that is not 0"
EMPTY_FILE = "diff --git {}\nnew file mode 100644\nindex 0000000..e69de29\n"
NEW_MODE = "diff --git {}\nold mode 100755\nnew mode 100644\n"
ODD_NAME = r"""diff --git "a/x" "b/\N{foo}.py"
new file mode 100644
--- /dev/null
+++ "b/\N{foo}.py"
@@ -0,0 +1,1 @@
+x = 1
"""
RAW_NAME = r'"a/caf\351.txt" "b/caf\351.txt"'
FORGED = {
    "gold": Forged({CODE: FIXED}, True, True),
    "nothing": Forged({CODE: BUGGY + "# seen\n"}, False, False),
    "prints and exits with 1": Forged(
        {CODE: BUGGY + SAY + "say(LINES)\nos._exit(1)\n"}, False, False, CONTRADICTS
    ),
    "prints and exits with 0": Forged(
        {CODE: BUGGY + SAY + "say(LINES)\nos._exit(0)\n"}, True, True
    ),
    "prints at exit, 1": Forged({CODE: BUGGY + SAY + AT_EXIT.format(1)}, False, True, CONTRADICTS),
    "prints at exit, 0": Forged({CODE: BUGGY + SAY + AT_EXIT.format(0)}, True, True),
    "ends early": Forged({CODE: BUGGY + SAY + "say(LINES + END)\n"}, False, False, MARKER),
    "ends early, with a code": Forged(
        {CODE: BUGGY + SAY + "say(LINES + END + CODE_0)\n"}, True, True, MARKER
    ),
    "starts again, with a code": Forged(
        {CODE: BUGGY + SAY + "say(LINES + START + CODE_0)\n"}, True, True, MARKER
    ),
    "writes before the tests": Forged(
        {"setup.py": SETUP + "print(LINES)\n", CODE: BUGGY + "import os\nos._exit(0)\n"},
        True,
        True,
        OUTSIDE,
    ),
    "writes after the tests": Forged({CODE: BUGGY + SAY + AFTERWARDS}, True, True, OUTSIDE),
    "test globals": Forged({CODE: BUGGY + GLOBALS}, True, True),
    "conftest": Forged({"conftest.py": CONFTEST}, True, False, "a patch with a conftest.py"),
    "sitecustomize": Forged(
        {"sitecustomize.py": AT_START}, True, True, "a patch with a sitecustomize.py"
    ),
    "shims": Forged({"setup.py": SHIM}, True, True),
    "site-packages": Forged({"setup.py": EDITED}, True, True),
    "the running script": Forged({"setup.py": REWRITTEN}, True, True),
    "a line that a parser cannot read": Forged(
        {CODE: FIXED + SAY + "say('FAIL:\\n')\n"}, True, False
    ),
    "quotes a marker": Forged({CODE: f"{FIXED}# {START_TEST_OUTPUT}\n"}, True, True, MARKER),
    "tests errored": Forged({CODE: FIXED + SAY + "say(ERRED)\n"}, False, False, MARKER),
    "exits": Forged({CODE: BUGGY + "import os\nos._exit(0)\n"}, False, False),
    "kills the shell": Forged(
        {CODE: BUGGY + "import os\nos.kill(os.getppid(), 9)\n"}, False, False, None
    ),
    "bytes that are not UTF-8": Forged({CODE: FIXED + LENGTH_1, "names.py": LATIN_1}, False, False),
    "beside bytes that are not UTF-8": Forged(
        {CODE: FIXED, "old_names.py": LATIN_1 + "SIZE = 2\n"}, False, False, None
    ),
    "bytes that are not UTF-8, and do not matter": Forged(
        {CODE: FIXED, "names.py": LATIN_1}, True, True
    ),
    "a name that git does not write": Forged({CODE: FIXED}, True, True, more=ODD_NAME),
    "git's warning is not UTF-8": Forged(
        {CODE: FIXED},
        False,
        False,
        None,
        more=EMPTY_FILE.format(RAW_NAME) + NEW_MODE.format(RAW_NAME),
    ),
    "leaves a process behind": Forged({CODE: FIXED + SAY + LEFT_BEHIND}, True, True),
}


def row_of(form: Form, repository: Path) -> Row:
    """The instance of a form: the first test must start to pass, the second must stay so."""
    base = _git(repository, "rev-parse", "HEAD").strip()
    old = FILES[form.tests]
    test_patch = patch_of(repository, {form.tests: old + form.new})
    script = SCRIPT
    for name, text in (
        ("BASE", base),
        ("TEST_PATCH", test_patch),
        ("TESTS", form.tests),
        ("COMMAND", form.command),
    ):
        script = script.replace(name, text)
    return Row(
        repo="kvci/forged",
        instance_id=f"kvci__forged-{form.parser.rpartition('_')[2]}",
        base_commit=base,
        patch=patch_of(repository, {CODE: FIXED}),
        test_patch=test_patch,
        problem_statement="double(2) gives 2.",
        version="1",
        FAIL_TO_PASS=(form.test.format("double"),),
        PASS_TO_PASS=(form.test.format("same"),),
        image=small_image(FILES),
        eval_script=script,
        log_parser=form.parser,
        eval_type="pass_and_fail",
    )


def make_repository(folder: Path) -> Path:
    """A git repository with the files; its commit is the same each time."""
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, errors="surrogateescape")
    subprocess.run(COMMIT, cwd=folder, env=os.environ | IDENTITY, shell=True, check=True)
    return folder


def patch_of(repository: Path, files: dict[str, str]) -> str:
    """The patch that gives these files their texts."""
    for name, text in files.items():
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(text, errors="surrogateescape")
    _git(repository, "add", "--all")
    patch = _git(repository, "diff", "--cached", "HEAD")
    _git(repository, "reset", "-q", "--hard")
    return patch


def added(path: str, lines: str) -> str:
    """Return a patch that makes a new file."""
    body = "".join(f"+{line}\n" for line in lines.splitlines())
    count = len(lines.splitlines())
    return (
        f"diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n"
        f"@@ -0,0 +1,{count} @@\n{body}"
    )


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, check=True)
    return done.stdout.decode(errors="surrogateescape")
