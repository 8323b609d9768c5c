"""The instances here are in no dataset; tests/run/test_regrade.py recomputes real ones."""

import pytest


@pytest.fixture(autouse=True)
def no_recomputing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvci.review.evidence_check.differences", lambda run: [])
