"""Run and grade one real instance of SWE-bench Lite."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from kvci.cli import main
from kvci.host import host
from kvci.run.predictions import grade_patches
from kvci.rundir.documents import Graded
from kvci.spec import without_model
from kvci.taxonomy import Verdict
from tests.conftest import MODEL, data
from tests.made_images import real_images

INSTANCE = "pallets__flask-5063"


@pytest.mark.long
def test_the_gold_patch_resolves(tmp_path: Path) -> None:
    real_images(INSTANCE)
    dataset = str(data("swe-bench-lite.v5.jsonl"))
    asked = without_model({"dataset": dataset, "filter": INSTANCE, "test_s": 600.0})
    found = grade_patches(asked, None, tmp_path / "out")[INSTANCE]
    assert found.verdict is Verdict.RESOLVED
    assert (found.fail_to_pass, found.pass_to_pass) == ((2, 2), (54, 54))


@pytest.mark.long
def test_a_run_of_three_kv_types(tmp_path: Path) -> None:
    """The model is too small to fix this instance, so no arm resolves it."""
    real_images(INSTANCE)
    words = ["run", "--model", str(MODEL), "--dataset", str(data("swe-bench-lite.v5.jsonl"))]
    words += ["--kv", "f16/f16", "--kv", "q8_0/q8_0", "--kv", "q4_0/q4_0", "--filter", INSTANCE]
    words += ["--context", "4096", "--max-steps", "4", "--max-tokens", "96", "--run-id", "r"]
    words += ["--engine", "embedded", "--out", str(tmp_path)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    arms = json.loads((tmp_path / "r" / "summary.json").read_text())["arms"]
    assert [(arm["done"], arm["resolved"], arm["infrastructure"]) for arm in arms] == [
        (1, 0, 0)
    ] * 3
    gold = Graded.read(tmp_path / "r" / "preflight" / host() / INSTANCE / "graded.json")
    assert gold.verdict is Verdict.RESOLVED
