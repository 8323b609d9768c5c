"""Run a real model in the embedded engine and in llama-server, also with kill -9."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from kvci.record.from_run import build
from kvci.rundir.documents import Outcome
from tests.run.test_run import KVCI, Known, kill_and_resume, outcomes, temporary

DEMO = str(Path(__file__).parents[2] / "ci" / "experiments" / "demo.toml")


def live(out: Path, engine: str = "embedded") -> "subprocess.Popen[str]":
    """Start a run of two arms on two instances. Its id is `scripted`; `outcomes` needs that."""
    words = ["run", DEMO, "--out", str(out), "--run-id", "scripted", "--limit", "2"]
    words += ["--kv", "f16/f16", "--kv", "q4_0/q4_0", "--max-steps", "3", "--max-tokens", "64"]
    return subprocess.Popen(
        [*KVCI, *words, "--engine", engine],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | {"TMPDIR": str(temporary(out))},
    )


def messages(out: Path) -> dict[str, list[object]]:
    """Return trial -> the messages of the trial, without their times."""
    return {
        str(path.relative_to(out)): [json.loads(line).get("message") for line in path.open()]
        for path in out.glob("scripted/trials/*/*/*/trajectory.jsonl")
    }


def finish(out: Path, engine: str = "embedded") -> Known:
    process = live(out, engine)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return outcomes(out)


@pytest.mark.long
def test_kill_9_with_the_embedded_engine(tmp_path: Path) -> None:
    undisturbed = finish(tmp_path / "undisturbed")
    assert len(undisturbed) == 4
    kill_and_resume(tmp_path / "killed", undisturbed, kills=2, seed=3, start=live, within_s=20)
    assert messages(tmp_path / "killed") == messages(tmp_path / "undisturbed")


def test_both_engines_give_same_effective_configuration(tmp_path: Path) -> None:
    """If both engines have the same build, their patches are equal, too."""
    binary = os.environ.get("KVCI_LLAMA_SERVER") or shutil.which("llama-server")
    if not binary:
        pytest.skip("no llama-server on PATH or in KVCI_LLAMA_SERVER")
    found = []
    for engine in ("embedded", binary):
        out = tmp_path / Path(engine).name
        patches = {key: patch for key, (_, _, _, patch) in finish(out, engine).items()}
        records = build(out / "scripted")
        shown = [
            effective.model_copy(update={"build": None})
            for record in records
            for effective in record.effective
        ]
        found.append(
            (patches, shown, [effective.build for r in records for effective in r.effective])
        )
        trials = [Outcome.read(path) for path in out.glob("scripted/trials/*/*/*/outcome.json")]
        assert {trial.server_build for trial in trials} == set(found[-1][2])
    (patches, shown, builds), (others, other_shown, other_builds) = found
    assert shown == other_shown
    assert all(builds) and all(other_builds)
    print(f"builds {set(builds)} and {set(other_builds)}: patches equal {patches == others}")
    if builds == other_builds:
        assert patches == others
