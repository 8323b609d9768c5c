"""Real instances of SWE-bench Lite through the whole run, killed and taken up again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kvci.run.directory import Ceiling, RunDirectory
from kvci.serve.replay import Script, Step
from kvci.tasks import row
from kvci.tasks.row import Row, patched_files
from tests.conftest import data
from tests.made_images import ROWS, real_images

FLASK = [f"pallets__flask-{number}" for number in (4045, 4992, 5063)]
REQUESTS = [f"psf__requests-{number}" for number in (2317, 3362)]
"""Their tests talk to a server elsewhere."""
PYTEST = [f"pytest-dev__pytest-{number}" for number in (5692, 7168, 7432, 8365, 8906, 11143)]
SYMPY_NUMBERS = [11400, 12236, 13031, 13773, 14024, 14774, 15345, 15346, 16106, 17655]
SYMPY_NUMBERS += [18835, 20049, 20442, 21055, 21171, 21627, 22840, 24066, 24909]
NAMES = [*FLASK, *REQUESTS, *PYTEST, *(f"sympy__sympy-{number}" for number in SYMPY_NUMBERS)]
EXPECTED = {
    "gold": "OK",
    "build": "OK",
    "seen": "A11a",
    "empty": "A6",
    "elsewhere": "A9",
    "loop": "A2",
    "syntax": "A8",
}
ARMS = ("f16/f16", "q8_0/q8_0", "q4_0/q4_0")
LARGE = "mkdir -p build/lib && head -c 900000 /dev/urandom | base64 > build/lib/made.py"


def bash(command: str) -> Step:
    return Step(text=f"```bash\n{command}\n```")


def behave(one: Row, behaviour: str) -> tuple[Step, ...]:
    file = sorted(patched_files(one.patch))[0]
    gold, submit = bash(f"git apply - <<'EOF_OF_GOLD'\n{one.patch}EOF_OF_GOLD"), bash("submit")
    return {
        "gold": (bash("python -c 'import sys; print(sys.prefix)'"), gold, submit),
        "build": (bash(LARGE), gold, submit),
        "seen": (bash(f"echo '# seen' >> {file}"), submit),
        "empty": (bash("git log --oneline | head"), submit),
        "elsewhere": (bash("echo 'x = 1' > elsewhere.py"), submit),
        "loop": (bash("ls"),),
        "syntax": (bash(f"echo 'def (:' >> {file}"), submit),
    }[behaviour]


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_three_arms_give_the_known_table_through_a_kill(tmp_path: Path) -> None:
    real_images(*NAMES)
    rows = [one for one in row.load(data(ROWS)) if one.instance_id in NAMES]
    order = list(EXPECTED)
    given = {one.instance_id: order[number % len(order)] for number, one in enumerate(rows)}
    answers = {one.instance_id: behave(one, given[one.instance_id]) for one in rows}
    Script(answers=answers).write(tmp_path / "script.json")
    words = [sys.executable, "-c", "from kvci.cli import main; main()", "run"]
    words += ["--model", str(Path(__file__).parents[2] / "ci" / "models" / "calibration.toml")]
    words += ["--dataset", str(data(ROWS)), "--instances", ",".join(NAMES), "--validate"]
    words += ["--engine", f"replay:{tmp_path / 'script.json'}", "--slots", "2"]
    words += ["--context", "4096", "--max-steps", "8", "--out", str(tmp_path), "--run-id", "r"]
    words += [word for arm in ARMS for word in ("--kv", arm)]
    folder = tmp_path / "r"
    killed = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    until = time.monotonic() + 1800
    while len(list(folder.glob("trials/*/*/*/outcome.json"))) < 25 and time.monotonic() < until:
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.2)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    before = {path: path.read_bytes() for path in folder.glob("trials/*/*/*/outcome.json")}
    done = subprocess.run(words, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {(o.arm, o.instance): str(o.cls) for o in RunDirectory(folder).outcomes()}
    known = {name: "I0" if name in REQUESTS else EXPECTED[given[name]] for name in given}
    assert found == {
        (arm.replace("/", "-"), name): cls for arm in ARMS for name, cls in known.items()
    }
    assert all(path.read_bytes() == content for path, content in before.items())
    ceiling = Ceiling.read(folder / "ceiling.json")
    assert set(ceiling.invalid) == set(REQUESTS) and len(ceiling.valid) == len(NAMES) - 2
    patches = [json.loads(path.read_text())["patch_bytes"] for path in before]
    assert max(patches) < 20_000, "build products are no part of a patch"
