"""No dataset, workflow run, machine or test log has the trials of these tests; test_forged.py has
real ones."""

import pytest

from kvci.review import evidence_check
from kvci.review.verdicts import too_many_unfinished


@pytest.fixture(autouse=True)
def no_recomputing(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tuple(each for each in evidence_check.UNATTESTED if each is not too_many_unfinished)
    monkeypatch.setattr(evidence_check, "UNATTESTED", kept)
    for name in ("unvalidated", "on_other_machines"):
        monkeypatch.setattr(evidence_check, name, lambda part: [])
    monkeypatch.setattr(evidence_check, "differences", lambda run: [])
    monkeypatch.setattr(evidence_check, "without_workflow", lambda arms: [])
