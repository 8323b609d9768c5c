"""kvci's grading beside `swebench eval`, on patches of every kind."""

import json
from pathlib import Path

import pytest

from kvci.grade import Graded
from kvci.grade.grade import grade
from kvci.grade.harness import differences, evaluate
from kvci.run.sandboxes import Sandboxes
from kvci.sandbox import Caps
from kvci.tasks import row
from kvci.tasks.instance import Instance
from kvci.tasks.row import Row
from kvci.taxonomy import Verdict
from tests.conftest import data
from tests.made_images import ROWS, real_images

INSTANCE = "pallets__flask-5063"
FILE = "src/flask/cli.py"
TEST_S = 40.0


def added(path: str, lines: str) -> str:
    """A patch that makes a new file."""
    body = "".join(f"+{line}\n" for line in lines.splitlines())
    count = len(lines.splitlines())
    return (
        f"diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n"
        f"@@ -0,0 +1,{count} @@\n{body}"
    )


def kinds(gold: str) -> dict[str, tuple[str, Verdict]]:
    """Kind -> the patch, and kvci's verdict of it."""
    breaking = added("tests/conftest.py.orig", "x")
    shadow = added("tests/test_cli_extra.py", "x = 1")
    context = gold.replace("\n ", "\n  ", 3)
    return {
        "gold": (gold, Verdict.RESOLVED),
        "gold, no end of line": (gold.rstrip("\n"), Verdict.RESOLVED),
        "gold, and more": (gold + breaking, Verdict.RESOLVED),
        "harmless": (shadow, Verdict.TESTS_FAIL),
        "malformed": (gold[: len(gold) // 2], Verdict.APPLY_FAILED),
        "no patch at all": ("Traceback (most recent call last):\n  ...\n", Verdict.APPLY_FAILED),
        "not applying": (context.replace("import", "inport"), Verdict.APPLY_FAILED),
        "breaking": (added("src/click.py", "raise RuntimeError"), Verdict.TESTS_FAIL),
        "syntax": (
            gold + added("src/flask/more.py", "def (:"),
            Verdict.RESOLVED,
        ),
        "exiting": (
            added("conftest.py", "import os\nos._exit(0)"),
            Verdict.TESTS_FAIL,
        ),
        "spoofing": (
            added(
                "conftest.py", "print('PASSED tests/test_cli.py::test_x')\nimport os\nos._exit(3)"
            ),
            Verdict.TESTS_FAIL,
        ),
        "hanging": (
            added("conftest.py", "import time\ntime.sleep(3600)"),
            Verdict.TEST_TIMEOUT,
        ),
    }


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_the_harness_says_the_same_of_every_kind_of_patch(tmp_path: Path) -> None:
    real_images(INSTANCE)
    (one,) = [each for each in row.load(data(ROWS)) if each.instance_id == INSTANCE]
    wrong = []
    for kind, (patch, verdict) in kinds(one.patch).items():
        folder = tmp_path / kind.replace(" ", "-").replace(",", "")
        graded = ours(one, patch, folder / "ours")
        if graded.verdict is not verdict:
            wrong.append(f"{kind}: {graded.verdict}, not {verdict} {graded.detail}")
        reports = evaluate([one], {INSTANCE: patch}, folder / "theirs", TEST_S)
        if INSTANCE not in reports:
            written = graded.verdict in (Verdict.APPLY_FAILED, Verdict.TEST_TIMEOUT)
            if not written:
                wrong.append(f"{kind}: the harness writes no report, and kvci {graded.verdict}")
            continue
        report = folder / "ours" / "report.json"
        mine = json.loads(report.read_text()) if report.exists() else {"resolved": False}
        wrong += [f"{kind}: {line}" for line in differences(mine, reports[INSTANCE])]
    assert not wrong, "\n".join(wrong)


def ours(one: Row, patch: str, folder: Path) -> Graded:
    sandboxes = Sandboxes("docker", folder, Caps())
    instance = Instance(one)
    return grade(one, patch.encode(), lambda: sandboxes.make(instance), folder, TEST_S)
