"""Earlier runs of mini-swe-agent: a real small one of 2.4.6, and the user's two of 1.17.4."""

import json
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from kvci.cli import main
from kvci.errors import UserError
from kvci.record.mini import read_run
from kvci.record.record import Derived, Imported, read
from kvci.taxonomy import Class
from tests.conftest import GOLDEN, ROOT, data

SMALL = GOLDEN / "mini-swe-agent-2.4.6"
F16 = "swe-lite-qwen3-4b-instruct-2507-kv-f16-f16-20260131_080149"
Q8 = "swe-lite-qwen3-4b-instruct-2507-kv-q8-q8-20260127_125632"


def derived(record: Imported) -> Derived:
    assert record.derived
    return record.derived


def labels(record: Imported) -> Counter[str]:
    return Counter(trial.label for trial in derived(record).trials)


@pytest.fixture(scope="session")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two runs' folders."""
    folder = tmp_path_factory.mktemp("earlier")
    for name in (F16, Q8):
        with tarfile.open(data(f"quantuzo/{name}.tar.xz")) as archive:
            archive.extractall(folder, filter="data")
    return folder


def test_every_end_of_2_x_has_its_class() -> None:
    found = {t.instance: t for t in derived(read_run(SMALL, kv="q8_0/q8_0")).trials}
    assert {name: trial.classes for name, trial in found.items() if name != "a__a-1"} == {
        "a__a-2": (Class.A6,),
        "a__b-3": (Class.A2,),
        "a__b-4": (Class.A5,),
        "a__b-5": (Class.A3,),
        "a__b-6": (Class.I1,),
        "a__b-7": (Class.A4,),
    }
    assert found["a__b-4"].malformed == 3
    assert found["a__b-3"].loops == 4 and found["a__b-7"].loops == 0
    assert found["a__a-1"].patch_bytes > 0 and found["a__a-1"].answer_tokens > 0


def test_without_a_report_it_says_that_nothing_was_graded() -> None:
    record = read_run(SMALL, kv="q8_0/q8_0")
    assert record.reported["Resolved"] == record.reported["Errors"] == "not graded"
    (patched,) = [t for t in derived(record).trials if t.instance == "a__a-1"]
    assert "not graded" in patched.label and not patched.valid and not patched.resolved


@pytest.mark.parametrize(
    ("outcome", "label", "valid"),
    [
        ("resolved", "OK", True),
        ("unresolved", "A8-A11 (unsplit)", True),
        ("error", "I3/A7/A10 (no log)", False),
    ],
)
def test_the_harness_report_is_found_by_its_keys(
    tmp_path: Path, outcome: str, label: str, valid: bool
) -> None:
    run = tmp_path / "run"
    shutil.copytree(SMALL, run)
    report: dict[str, object] = {f"{kind}_ids": [] for kind in ("resolved", "unresolved", "error")}
    report |= {f"{outcome}_ids": ["a__a-1"], "submitted_ids": ["a__a-1"]}
    counts = {"total_instances": 9, "submitted_instances": 1}
    (run / "any name.json").write_text(json.dumps(counts | report))
    record = read_run(run, kv="q8_0/q8_0")
    (patched,) = [t for t in derived(record).trials if t.instance == "a__a-1"]
    assert (patched.label, patched.valid) == (label, valid)
    assert record.reported["Submitted"] == "1/9"


def test_what_is_no_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run folder of mini-swe-agent"):
        read_run(tmp_path)
    (tmp_path / "preds.json").write_text("[]")
    with pytest.raises(UserError, match="not a JSON object"):
        read_run(tmp_path)
    (tmp_path / "preds.json").write_text("{}")
    with pytest.raises(UserError, match="does not say its KV type; give --kv"):
        read_run(tmp_path)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(UserError, match=r"report\.json is not JSON"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "classes", "patches", "exceptions"),
    [
        (
            F16,
            {"A6": 100, "A8-A11 (unsplit)": 96, "A2": 30, "I1": 28, "A3": 23, "A4": 14, "OK": 8}
            | {"I3/A7/A10 (no log)": 1},
            105,
            54,
        ),
        (
            Q8,
            {"A8-A11 (unsplit)": 115, "A6": 108, "I1": 30, "A2": 21, "A3": 14, "OK": 5}
            | {"I2/A4 (health not kept)": 5, "I2/A2 (health not kept)": 1}
            | {"I3/A7/A10 (no log)": 1},
            121,
            64,
        ),
    ],
)
def test_the_users_runs_give_the_log_and_every_trial_a_class(
    earlier: Path, name: str, classes: dict[str, int], patches: int, exceptions: int
) -> None:
    record = read_run(earlier / name)
    logged = read(ROOT / "ci" / "results" / f"{name}.json")
    assert isinstance(logged, Imported) and record.reported == logged.reported
    assert labels(record) == classes and labels(record).total() == 300
    trials = derived(record).trials
    assert sum(trial.patch_bytes > 0 for trial in trials) == patches
    assert sum(trial.exception_as_patch for trial in trials) == exceptions


def test_the_verb_keeps_the_owners_row_and_adds_the_reading(tmp_path: Path) -> None:
    results, benchmarks = tmp_path / "results", tmp_path / "BENCHMARKS.md"
    words = ["import", str(SMALL), "--kv", "q8_0/q8_0", "--dataset", "made up"]
    words += ["--results", str(results), "--benchmarks", str(benchmarks)]
    first = CliRunner().invoke(main, words)
    assert first.exit_code == 0, first.output
    assert "1 patches, 0 exceptions stored as patches" in first.output
    assert "| q8_0/q8_0 | made up | 1/7 | not graded |" in benchmarks.read_text()
    before = benchmarks.read_text()
    assert CliRunner().invoke(main, words).exit_code == 0
    assert benchmarks.read_text() == before
    other = CliRunner().invoke(main, [*words, "--kv", "q4_0/q4_0"])
    assert other.exit_code == 2 and "never overwritten" in other.output
    assert CliRunner().invoke(main, ["import", str(tmp_path)]).exit_code == 2
