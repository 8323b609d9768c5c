"""One real SWE-bench Lite instance, in an image built by hand."""

from pathlib import Path

import pytest

from kvci.run.grade import grade_patches
from kvci.taxonomy import Verdict
from tests.conftest import data
from tests.real import INSTANCE, flask_image


@pytest.mark.faults
def test_the_gold_patch_resolves_as_the_harness_says(tmp_path: Path) -> None:
    flask_image()
    dataset = str(data("swe-bench-lite.v5.jsonl"))
    found = grade_patches(dataset, INSTANCE, None, "auto", 600.0, tmp_path / "out")[INSTANCE]
    assert found.verdict is Verdict.RESOLVED
    assert (found.fail_to_pass, found.pass_to_pass) == ((2, 2), (54, 54))
