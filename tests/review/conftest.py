"""No dataset and no workflow run has the trials of these tests; test_forged.py has real ones."""

import pytest


@pytest.fixture(autouse=True)
def no_recomputing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvci.review.evidence_check.differences", lambda run: [])
    monkeypatch.setattr("kvci.review.evidence_check.without_workflow", lambda arms: [])
