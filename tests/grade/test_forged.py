"""Grade forged patches with kvci and with `swebench eval`: the verdicts must be the same."""

from pathlib import Path

import pytest
from swebench.harness.utils import make_test_spec

from kvci.grade.eval_script import script_of
from kvci.grade.harness import evaluate
from kvci.run.attempt import grade_once
from kvci.run.sandboxes import Sandboxes
from kvci.sandbox import Caps
from kvci.tasks.calibration import generate
from kvci.tasks.instance import Instance
from kvci.tasks.row import Row
from kvci.taxonomy import Verdict
from tests.grade.forged import FORGED, FORMS, make_repository, row_of

TEST_S = 30.0


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repository(tmp_path_factory.mktemp("forged"))


@pytest.fixture(scope="module")
def rows(repository: Path) -> dict[str, Row]:
    return {name: row_of(form, repository) for name, form in FORMS.items()}


@pytest.mark.parametrize(
    "form",
    [form if form == "pytest" else pytest.param(form, marks=pytest.mark.long) for form in FORMS],
)
@pytest.mark.parametrize("kind", FORGED)
def test_forged_patch_gets_its_verdict(
    kind: str, form: str, repository: Path, rows: dict[str, Row], tmp_path: Path
) -> None:
    patch = FORGED[kind].patch(FORMS[form], repository)
    sandboxes = Sandboxes("docker", tmp_path, Caps())
    found = grade_once(sandboxes, Instance(rows[form]), patch, tmp_path / "out", TEST_S)
    assert found.verdict is not Verdict.NOT_GRADED, found.detail
    assert (found.verdict is Verdict.RESOLVED) is FORGED[kind].resolved[form], found
    if (kind, form) != ("prints at exit, 1", "django"):  # its log has failures, too
        assert found.doubt == FORGED[kind].doubt


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_harness_gives_the_same_verdicts(
    repository: Path, rows: dict[str, Row], tmp_path: Path
) -> None:
    asked, patches, expected = [], {}, {}
    for number, forged in enumerate(FORGED.values()):
        for form, row in rows.items():
            one = row.model_copy(update={"instance_id": f"{row.instance_id}-{number}"})
            asked.append(one)
            patch = forged.patch(FORMS[form], repository)
            patches[one.instance_id] = patch.decode(errors="replace")
            expected[one.instance_id] = forged.resolved[form]
    reports = evaluate(asked, patches, tmp_path, TEST_S, workers=4)
    # The harness writes no report if its parser raises; it then counts the patch as not resolved.
    found = {name: bool(reports.get(name, {}).get("resolved")) for name in expected}
    assert found == expected


def test_script_is_the_harness_script(rows: dict[str, Row]) -> None:
    for row in rows.values():
        script = script_of(row)
        assert script == make_test_spec(row.model_dump(mode="json")).eval_script
        assert "Test Exit Code" in script and "Test Exit Code" not in row.eval_script


def test_calibration_script_records_the_exit_code_once() -> None:
    """The harness's own change would record the code of the line that records the code."""
    row = generate("test", 1).row
    assert script_of(row) == row.eval_script
    assert script_of(row).count("SWEBENCH_TEST_EXIT_CODE=$?") == 1
