"""Redacted evidence gives the records of its run, whatever the user and the machine are called."""

import re
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from kvci.cli import main
from kvci.errors import UserError
from kvci.record.bundle import publishable
from kvci.record.from_run import build
from kvci.review import recompute
from kvci.review.own_evidence import check_own
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import Outcome
from tests.conftest import GOLDEN

NAMES = ["tests", "test", "runner", "django", "a", "passed", "PASSED", "python", "git", "testbed"]
NAMES += ["build", "slots", "CPU", "q8_0", "calibration", "kvci-calibration"]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of real runs, which are recomputed."""
    monkeypatch.setattr("kvci.review.evidence_check.differences", recompute.differences)
    with tarfile.open(GOLDEN / "kvci-0.1.0" / "runs.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "runs"


@pytest.mark.parametrize("word", NAMES)
def test_records_come_out_whatever_user_and_host_are_called(
    word: str, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs / "whole"
    before = [record.trials for record in build(run)]
    monkeypatch.setattr("kvci.record.redact._user", lambda: word)
    monkeypatch.setattr("platform.node", lambda: word)
    check_own(run)
    assert [record.trials for record in build(run)] == before
    for log in run.rglob("test_output.txt"):
        assert publishable(log, run, redacted=False) == log.read_bytes()


def test_shards_and_interim_runs_pass_the_check(runs: Path) -> None:
    check_own(runs / "shards")
    check_own(runs / "shards", "shard-1-of-2")
    check_own(next(runs.glob("nightly-*")))


def test_evidence_that_redaction_breaks_is_refused(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvci.record.redact.SECRET", re.compile(r"test_\w+"))
    check_own(runs / "whole")  # the names of tests are kept in a test log
    monkeypatch.setattr("kvci.record.bundle._tests", lambda report: set())
    with pytest.raises(UserError, match=r"The redacted evidence of .* does not give its trials"):
        check_own(runs / "whole")


@pytest.fixture
def contradicting(runs: Path) -> Path:
    """A run of which an outcome does not fit its conversation."""
    run = runs / "whole"
    outcome = RunDirectory(run).outcomes()[0]
    changed: Outcome = outcome.model_copy(update={"loops": outcome.loops + 1})
    changed.write(RunDirectory(run).trial(outcome.trial) / "outcome.json")
    return run


def test_run_that_contradicts_itself_is_refused(contradicting: Path) -> None:
    with pytest.raises(UserError, match=r"^The evidence of .* does not give its trials: .* loops"):
        check_own(contradicting)


def test_nothing_is_published_if_the_check_fails(contradicting: Path, tmp_path: Path) -> None:
    out = tmp_path / "evidence.tar.gz"
    for words in (["evidence", "--out", str(out)], ["publish", "--repository", "a/b", "--dry-run"]):
        done = CliRunner().invoke(main, [words[0], str(contradicting), *words[1:]])
        assert done.exit_code == 2 and "does not give its trials" in done.output
    assert not out.exists()


def test_job_fails_but_keeps_its_artifact_if_the_check_fails(
    contradicting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise no other machine could resume the run."""
    monkeypatch.setenv("RUNNER_TEMP", str(tmp_path))
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    words = ["ci", "pack", "--out", str(contradicting.parent), "--run-id", contradicting.name]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2 and "does not give its trials" in done.output
    archive = tmp_path / "evidence-whole.tar.gz"
    assert archive.exists() and f"archive={archive}\n" in (tmp_path / "output").read_text()
