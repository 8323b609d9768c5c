"""Run real instances of SWE-bench Lite: kill the run, resume it, and compare with the harness.

A third of the images fit into the disk budget.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from kvci.docker import engine
from kvci.images import image_cache
from kvci.images.commands import prune
from kvci.images.ledger import Ledger
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import Ceiling
from kvci.serve.replay import Reply, Script
from kvci.tasks import row
from kvci.tasks.row import Row, patched_files
from kvci.threads import background
from tests.conftest import data
from tests.images.registry import program, serving
from tests.made_images import ROWS, real_images
from tests.own_daemon import own_daemon

FLASK = [f"pallets__flask-{number}" for number in (4045, 4992, 5063)]
REQUESTS = [f"psf__requests-{number}" for number in (2317, 3362)]
"""The tests of these instances need a server on the internet."""
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


def bash(command: str) -> Reply:
    return Reply(text=f"```bash\n{command}\n```")


def behave(one: Row, behaviour: str) -> tuple[Reply, ...]:
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


BUDGET_GB = 0.3
"""All images together need about 0.9 GB, without shared layers."""
DISK_BYTES = 16 << 30


class Most:
    """A watch on the most bytes and the most images that kvci kept while trials ran."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._stop, self.bytes, self.images = folder, threading.Event(), 0, 0

    def __enter__(self) -> Self:
        self._looking = background(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._looking.result()

    def _look(self) -> None:
        while not self._stop.wait(2):
            before = len(self._trials())
            kept = image_cache.cached_images()
            if before and len(self._trials()) > before:
                self.bytes = max(self.bytes, sum(one.unshared_bytes for one in kept))
                self.images = max(self.images, len(kept))

    def _trials(self) -> list[Path]:
        return list(self._folder.glob("trials/*/*/*/trajectory.jsonl"))


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Path]:
    """Return the instances. The test's own Docker daemon pulls images from a local registry."""
    real_images(*NAMES)
    real = [one for one in row.load(data(ROWS)) if one.instance_id in NAMES]
    storage, found = tmp_path / "registry", program(tmp_path)
    with serving(found, storage) as outside:
        for one in real:
            outside.push(one.image, f"real/{one.instance_id}".lower())
    with own_daemon(DISK_BYTES), serving(found, storage) as inside:
        names = {one.instance_id: f"real/{one.instance_id}:latest".lower() for one in real}
        moved = [
            one.model_copy(update={"image": f"{inside.address}/{names[one.instance_id]}"})
            for one in real
        ]
        file = tmp_path / "rows.jsonl"
        file.write_text("\n".join(one.model_dump_json() for one in moved))
        yield file


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_three_arms_give_expected_classes_and_harness_agrees(rows: Path, tmp_path: Path) -> None:
    known_rows = row.load(rows)
    order = list(EXPECTED)
    given = {one.instance_id: order[n % len(order)] for n, one in enumerate(known_rows)}
    answers = {one.instance_id: behave(one, given[one.instance_id]) for one in known_rows}
    Script(answers=answers).write(tmp_path / "script.json")
    words = [sys.executable, "-c", "from kvci.cli import main; main()", "run"]
    words += ["--model", str(Path(__file__).parents[2] / "ci" / "models" / "calibration.toml")]
    words += ["--dataset", str(rows), "--disk-budget", str(BUDGET_GB), "--disk-reserve", "1"]
    words += ["--engine", f"replay:{tmp_path / 'script.json'}", "--slots", "2"]
    words += ["--context", "4096", "--max-steps", "8", "--out", str(tmp_path), "--run-id", "r"]
    words += ["--validate"]
    words += [word for arm in ARMS for word in ("--kv", arm)]
    folder = tmp_path / "r"
    killed = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    until = time.monotonic() + 3000
    while len(list(folder.glob("trials/*/*/*/outcome.json"))) < 25 and time.monotonic() < until:
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.2)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    before = {path: path.read_bytes() for path in folder.glob("trials/*/*/*/outcome.json")}
    with Most(folder) as most:
        done = subprocess.run(words, capture_output=True, text=True, timeout=4000)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {(o.arm, o.instance): str(o.cls) for o in RunDirectory(folder).outcomes()}
    known = {name: "I0" if name in REQUESTS else EXPECTED[given[name]] for name in given}
    assert found == {
        (arm.replace("/", "-"), name): cls for arm in ARMS for name, cls in known.items()
    }
    assert all(path.read_bytes() == content for path, content in before.items())
    ceiling = Ceiling.read(folder / "ceiling.json")
    assert set(ceiling.invalid) == set(REQUESTS) and len(ceiling.valid) == len(NAMES) - 2
    ledger = Ledger.read(folder / "images.json").images
    print(most.bytes, most.images, [(one.state, round(one.seconds)) for one in ledger])
    assert 0 < most.bytes <= 1e9 * BUDGET_GB and most.images < len(NAMES)
    assert sum(one.state == "evicted" for one in ledger) > len(NAMES) / 2
    graded = [o for o in RunDirectory(folder).outcomes() if o.patch_bytes and str(o.cls) != "I0"]
    cross_check = [*words[: words.index("run")], "grade", str(folder), "--with-harness"]
    done = subprocess.run(cross_check, capture_output=True, text=True, timeout=4000)
    expected = f"{len(graded)} patches graded by the harness too, 0 differences"
    assert done.returncode == 0 and expected in done.stdout, done.stdout + done.stderr
    assert len(graded) == 3 * sum(known[name] not in ("I0", "A6", "A2") for name in known)
    prune(built=False)
    assert not image_cache.cached_images() and not engine.client().containers.list(all=True)
    patches = [json.loads(path.read_text())["patch_bytes"] for path in before]
    assert max(patches) < 20_000, "a patch has no build products"
