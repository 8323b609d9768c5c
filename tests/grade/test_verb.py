"""Test `kvci grade` with gold patches, predictions of other tools, and bad input."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from kvci.cli import main
from kvci.rundir.directory import RunDirectory
from kvci.tasks.calibration import suite
from kvci.taxonomy import DOUBTFUL
from tests.grade.forged import added

DATASET = "calibration:functions=3,count=2"
FIRST, SECOND = suite(DATASET)


def grade(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["grade", *words])
    return done.exit_code, done.output


def test_gold_patches_resolve(tmp_path: Path) -> None:
    code, text = grade("--dataset", DATASET, "--gold", "--json", "--out", str(tmp_path / "out"))
    assert code == 0, text
    found = json.loads(text)
    assert [one["verdict"] for one in found.values()] == ["resolved", "resolved"]
    assert (tmp_path / "out" / FIRST.row.instance_id / "test_output.txt").exists()
    assert not RunDirectory(tmp_path / "out").scratch.exists()


def test_grading_removes_only_its_own_scratch_folder(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    scratch, foreign = RunDirectory(out).scratch, out / "tmp" / "foreign"
    (scratch / "kvci-trial-left").mkdir(parents=True)
    foreign.mkdir(parents=True)
    words = ("--dataset", "calibration:functions=3,count=1", "--gold")
    assert grade(*words, "--out", str(out))[0] == 0
    assert foreign.exists() and not scratch.exists()


def test_predictions_get_their_verdicts(tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    lines = [
        {"instance_id": FIRST.row.instance_id, "model_patch": FIRST.row.patch},
        {"instance_id": SECOND.row.instance_id, "model_patch": None, "model_name_or_path": "x"},
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    words = ("--dataset", DATASET, "--out", str(tmp_path / "out"), "--predictions", str(file))
    code, text = grade(*words)
    assert code == 0, text
    assert f"{FIRST.row.instance_id}: resolved, 1/1 2/2" in text
    assert f"{SECOND.row.instance_id}: empty_patch" in text


def test_doubtful_test_output_is_shown(tmp_path: Path) -> None:
    file, words = tmp_path / "predictions.jsonl", ("--dataset", DATASET, "--predictions")
    patch = FIRST.row.patch + added("conftest.py", "import os\n")
    line = {"instance_id": FIRST.row.instance_id, "model_patch": patch}
    file.write_text(json.dumps(line))
    code, text = grade(*words, str(file), "--out", str(tmp_path / "out"))
    assert code == 0 and f"; {DOUBTFUL}: a patch with a conftest.py\n" in text, text


def test_options_of_the_other_mode_are_refused(tmp_path: Path) -> None:
    options = (["--filter", "x"], ["--mirror", "x"], ["--gold"], ["--json"], ["--test-time", "1"])
    for words in options:
        code, text = grade(str(tmp_path), *words)
        assert code == 2 and f"{words[0]} needs --dataset" in text
    for word in ("--all", "--with-harness"):
        code, text = grade("--dataset", DATASET, "--gold", word)
        assert code == 2 and f"{word} needs a run folder" in text


@pytest.mark.parametrize("words", [(), ("--with-harness",)])
def test_other_folder_is_no_run(tmp_path: Path, words: tuple[str, ...]) -> None:
    code, text = grade(str(tmp_path), *words)
    assert code == 2 and f"{tmp_path} is not a run folder" in text


def test_an_empty_patch_needs_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvci.run.predictions.waves", lambda *_: iter([]))
    file = tmp_path / "predictions.jsonl"
    patches = {FIRST.row.instance_id: FIRST.row.patch, SECOND.row.instance_id: "\n"}
    lines = [{"instance_id": name, "model_patch": patch} for name, patch in patches.items()]
    file.write_text("\n".join(map(json.dumps, lines)))
    _, text = grade(
        "--dataset", DATASET, "--predictions", str(file), "--out", str(tmp_path / "out")
    )
    assert f"{FIRST.row.instance_id}: grading_failed" in text and "image is not available" in text
    assert f"{SECOND.row.instance_id}: empty_patch" in text


def test_bad_input_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    words = ("--dataset", DATASET, "--out", str(tmp_path / "out"), "--predictions", str(file))
    assert grade(*words)[0] == 2
    assert "either --gold or --predictions" in grade(*words, "--gold")[1]
    assert "either --gold or --predictions" in grade("--dataset", DATASET)[1]
    file.write_bytes(b"\xff\xfe")
    assert "Line 1" in grade(*words)[1]
    file.write_text('{"instance_id": "x"}')
    assert "Line 1" in grade(*words)[1]
    file.write_text('{"instance_id": "x", "model_patch": ""}')
    assert "is not an instance of" in grade(*words)[1]
    line = json.dumps({"instance_id": FIRST.row.instance_id, "model_patch": ""})
    file.write_text(f"{line}\n{line}")
    assert "has two patches for" in grade(*words)[1]
    file.write_text(line.replace('""', r'"\ud83d"'))
    code, text = grade(*words)
    assert code == 2 and "Line 1" in text and "surrogates" in text
    assert "no instance" in grade("--dataset", DATASET, "--gold", "--filter", "zzz")[1].lower()
    assert not (tmp_path / "out").exists()


def test_a_stop_is_quick_and_leaves_nothing(tmp_path: Path) -> None:
    words = ["grade", "--dataset", "calibration:functions=3,count=60", "--gold"]
    words += ["--out", str(tmp_path / "out")]
    call = "from kvci.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", call, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        until = time.monotonic() + 60
        while not list((tmp_path / "out").glob("*/graded.json")):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.1)
        stopped = time.monotonic()
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert time.monotonic() - stopped < 5
    assert process.returncode == 2 and output.startswith(b"kvci: Stopped;"), output
    assert len(output.splitlines()) == 1 and not (tmp_path / "out" / "tmp").exists()
