"""Compare kvci's grading with `swebench eval`, on patches of every kind."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from kvci.cli import main
from kvci.docker import engine
from kvci.grade.harness import differences, evaluate
from kvci.grade.patch import grade
from kvci.images import history, image_cache
from kvci.run.sandboxes import Sandboxes
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import Graded
from kvci.sandbox import Caps
from kvci.serve.replay import Reply, Script
from kvci.tasks import row
from kvci.tasks.instance import Instance
from kvci.tasks.row import Row
from kvci.taxonomy import Class, Verdict
from tests.conftest import data
from tests.grade.forged import added
from tests.images.registry import serving
from tests.made_images import ROWS, real_images

INSTANCE = "pallets__flask-5063"
FILE = "src/flask/cli.py"
TEST_S = 40.0


def kinds(gold: str) -> dict[str, tuple[str, Verdict]]:
    """Return kind -> a patch, and kvci's verdict about the patch."""
    breaking = added("tests/conftest.py.orig", "x")
    shadow = added("tests/test_cli_extra.py", "x = 1")
    context = gold.replace("\n ", "\n  ", 3)
    return {
        "gold": (gold, Verdict.RESOLVED),
        "gold, no end of line": (gold.rstrip("\n"), Verdict.RESOLVED),
        "gold, and more": (gold + breaking, Verdict.RESOLVED),
        "harmless": (shadow, Verdict.TESTS_FAIL),
        "empty": ("", Verdict.EMPTY_PATCH),
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
        "no text": (
            gold
            + added(
                "conftest.py",
                "import atexit, os\natexit.register(os.write, 1, bytes([233, 10]))",
            ),
            Verdict.RESOLVED,
        ),
        "hanging": (
            added("conftest.py", "import time\ntime.sleep(3600)"),
            Verdict.TEST_TIMEOUT,
        ),
    }


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_kvci_and_the_harness_agree_on_every_kind(tmp_path: Path) -> None:
    real_images(INSTANCE)
    (one,) = [each for each in row.load(data(ROWS)) if each.instance_id == INSTANCE]
    wrong = []
    for kind, (patch, verdict) in kinds(one.patch).items():
        folder = tmp_path / kind.replace(" ", "-").replace(",", "")
        graded = ours(one, patch, folder / "ours")
        if graded.verdict is not verdict:
            wrong.append(f"{kind}: {graded.verdict}, not {verdict} {graded.detail}")
        reports = evaluate([one], {INSTANCE: patch}, folder / "harness", TEST_S)
        if INSTANCE not in reports:
            without_report = (Verdict.APPLY_FAILED, Verdict.TEST_TIMEOUT, Verdict.EMPTY_PATCH)
            if graded.verdict not in without_report:
                wrong.append(
                    f"{kind}: the harness writes no report, kvci's verdict is {graded.verdict}"
                )
            continue
        report = folder / "ours" / "report.json"
        own = json.loads(report.read_text()) if report.exists() else {"resolved": False}
        wrong += [f"{kind}: {line}" for line in differences(own, reports[INSTANCE])]
    assert not wrong, "\n".join(wrong)


LATER = """
set -e; cd /testbed
later=$(git -c user.name=x -c user.email=x commit-tree HEAD^{tree} -p HEAD -m later)
git update-ref refs/heads/later $later
"""


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_verb_cross_checks_on_a_stripped_image(tmp_path: Path) -> None:
    real_images(INSTANCE)
    (one,) = [each for each in row.load(data(ROWS)) if each.instance_id == INSTANCE]
    engine.client().containers.run(one.image, ["bash", "-c", LATER], name="kvci-later")
    made = engine.client().containers.get("kvci-later")
    made.commit("kvci-test", "later", conf={"Entrypoint": [], "Cmd": ["/bin/bash"]})
    made.remove()
    gold = Reply(text=f"```bash\ngit apply - <<'EOF_OF_GOLD'\n{one.patch}EOF_OF_GOLD\n```")
    seen = Reply(text=f"```bash\necho '# seen' >> {FILE}\n```")
    submit = Reply(text="```bash\nsubmit\n```")
    words = ["--model", "ci/models/calibration.toml", "--kv", "f16/f16", "--context", "4096"]
    words += [
        "--disk-reserve",
        "1",
        "--out",
        str(tmp_path),
        "--dataset",
        str(tmp_path / "rows.jsonl"),
    ]
    with serving() as registry:
        name = registry.push("kvci-test:later", "real/later")
        engine.client().images.remove("kvci-test:later", force=True)
        moved = one.model_copy(update={"image": name})
        (tmp_path / "rows.jsonl").write_text(moved.model_dump_json())
        for run, steps in (("gold", (gold, submit)), ("seen", (seen, submit))):
            Script(answers={INSTANCE: steps}).write(tmp_path / f"{run}.json")
            asked = [*words, "--engine", f"replay:{tmp_path / run}.json", "--run-id", run]
            done = CliRunner().invoke(main, ["run", *asked])
            assert done.exit_code == 0, done.output
    assert (
        image_cache.is_cached(name)
        and engine.client().images.get(name).labels[history.STRIPPED_FROM]
    ), "stripped"
    for run, cls in (("gold", "OK"), ("seen", "A11a")):
        folder = tmp_path / run
        (outcome,) = RunDirectory(folder).outcomes()
        assert outcome.cls == cls, outcome
        done = CliRunner().invoke(main, ["grade", str(folder), "--with-harness"])
        assert done.exit_code == 0, done.output
        assert done.output == "1 patches graded by the harness too, 0 differences\n"
    better = {"verdict": Verdict.RESOLVED, "cls": Class.OK, "why": ""}
    wrong = RunDirectory(folder).outcomes()[0].model_copy(update=better)
    (path,) = folder.glob("trials/*/*/*/outcome.json")
    wrong.write(path)
    (path.parent / "grade" / "report.json").unlink()
    done = CliRunner().invoke(main, ["grade", str(folder), "--with-harness"])
    assert done.exit_code == 1 and "resolved is True, the harness reports False" in done.output, (
        done.output
    )
    (kept,) = [each for each in image_cache.cached_images() if name in each.names]
    assert image_cache.evict(kept)


def ours(one: Row, patch: str, folder: Path) -> Graded:
    sandboxes = Sandboxes("docker", folder, Caps())
    instance = Instance(one)
    return grade(one, patch.encode(), lambda: sandboxes.make(instance), folder, TEST_S)
