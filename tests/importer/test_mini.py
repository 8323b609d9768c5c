"""Runs of mini-swe-agent are imported: a small real run of 2.4.6, and two large runs of 1.17.4."""

import json
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from kvci.cli import main
from kvci.errors import UserError
from kvci.importer.mini import read_run
from kvci.record.schema import Derived, Imported
from kvci.record.store import read
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
    """Return the folders of the two large runs."""
    folder = tmp_path_factory.mktemp("earlier")
    for name in (F16, Q8):
        with tarfile.open(data(f"quantuzo/{name}.tar.xz")) as archive:
            archive.extractall(folder, filter="data")
    return folder


def test_each_exit_of_2_x_has_its_class() -> None:
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


def test_run_without_report_is_not_graded() -> None:
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
def test_harness_report_is_found_by_its_keys(
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


def test_folder_without_run_gives_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder of mini-swe-agent"):
        read_run(tmp_path)
    (tmp_path / "preds.json").write_text("[]")
    with pytest.raises(UserError, match="has no fields"):
        read_run(tmp_path)
    (tmp_path / "preds.json").write_text("{}")
    with pytest.raises(UserError, match="has no instances"):
        read_run(tmp_path, kv="f16/f16")
    (tmp_path / "preds.json").write_text('{"a__a-1": {"model_patch": ""}}')
    with pytest.raises(UserError, match="does not state its KV type; import it with kvci import"):
        read_run(tmp_path)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(UserError, match=r"report\.json is not JSON"):
        read_run(tmp_path)


TRAJECTORY = "a__b-4/a__b-4.traj.json"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("preds.json", '{"a__a-1": "text"}'),
        ("exit_statuses_1.yaml", "a: [b"),
        ("exit_statuses_1.yaml", "- a list"),
        ("exit_statuses_1.yaml", "instances_by_exit_status: {Submitted: 3}"),
        ("report.json", '{"resolved_ids": 3}'),
        ("report.json", '{"resolved_ids": [], "total_instances": "many"}'),
        ("metadata.json", '{"model": "x"}'),
        ("metadata.json", '{"inference": []}'),
        ("metadata.json", '{"run_id": "../../escape"}'),
        ("metadata.json", '{"run_id": "a|b\\nc"}'),
        (TRAJECTORY, '{"messages": ["text"]}'),
        (TRAJECTORY, '{"info": {"model_stats": {"api_calls": "many"}}}'),
    ],
)
def test_bad_file_gives_one_sentence(tmp_path: Path, file: str, text: str) -> None:
    shutil.copytree(SMALL, tmp_path / "run")
    (tmp_path / "run" / file).write_text(text)
    with pytest.raises(UserError):
        read_run(tmp_path / "run", kv="q8_0/q8_0")


def test_null_means_absent(tmp_path: Path) -> None:
    shutil.copytree(SMALL, tmp_path / "run")
    (tmp_path / "run" / TRAJECTORY).write_text('{"info": null, "messages": null}')
    (tmp_path / "run" / "report.json").write_text('{"resolved_ids": [], "error_ids": null}')
    assert len(derived(read_run(tmp_path / "run", kv="q8_0/q8_0")).trials) == 7


@pytest.mark.parametrize("kv", ["banana", " ", "q8_0/q8_0\n# hi"])
def test_kv_type_must_be_one_of_llama_cpp(kv: str) -> None:
    if kv.endswith("hi"):
        assert read_run(SMALL, kv=kv).reported["KV Cache"] == "q8_0/q8_0"
        return
    with pytest.raises(UserError, match="KV type"):
        read_run(SMALL, kv=kv)


def test_secrets_and_names_are_not_imported(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(SMALL, run)
    trajectory = json.loads((run / TRAJECTORY).read_text())
    trajectory["info"]["config"]["model"]["model_kwargs"] = {
        "api_key": "sk-secret",
        "extra_headers": {"Authorization": "secret"},
        "temperature": 0.5,
    }
    (run / TRAJECTORY).write_text(json.dumps(trajectory))
    metadata = {"model": {"file": "/home/someone/x.gguf"}, "contributor": {"hostname": "gpubox"}}
    metadata["inference"] = {"host": "gpubox", "model_path": "/home/someone", "ctx_size": "8192"}
    (run / "metadata.json").write_text(json.dumps(metadata))
    record = read_run(run, kv="q8_0/q8_0")
    text = record.model_dump_json()
    assert not any(word in text for word in ("secret", "gpubox", "someone"))
    assert "0.5" in derived(record).settings["temperature"]
    assert derived(record).settings["context"] == ("8192",)


def only_predictions(tmp_path: Path, patch: str, **lists: list[str]) -> tuple[str, bool]:
    (tmp_path / "preds.json").write_text(json.dumps({"a__a-1": {"model_patch": patch}}))
    if lists:
        report = {"resolved_ids": [], "total_instances": 3, **lists}
        (tmp_path / "report.json").write_text(json.dumps(report))
    (trial,) = derived(read_run(tmp_path, kv="q8_0/q8_0")).trials
    return trial.label, trial.exception_as_patch


def test_trials_without_trajectories_keep_all_possible_classes(tmp_path: Path) -> None:
    diff = "diff --git a/x b/x\n"
    assert only_predictions(tmp_path, diff, resolved_ids=["a__a-1"]) == ("OK", False)
    label, stored = only_predictions(tmp_path, diff, unresolved_ids=["a__a-1"])
    assert "A8/A9/A11a/A11b" in label and "exit not kept" in label and not stored
    label, stored = only_predictions(tmp_path, "Traceback: no such container")
    assert label == "I1/I2/I4 (exit not kept)" and stored
    assert only_predictions(tmp_path, "")[0].startswith("I1/I2/I4/A1/")


def test_unattempted_instance_is_not_a_trial(tmp_path: Path) -> None:
    only_predictions(tmp_path, "", incomplete_ids=["b__b-1", "b__b-2"])
    record = read_run(tmp_path, kv="q8_0/q8_0")
    assert len(derived(record).trials) == 1 and derived(record).total == 3


def test_resolved_patch_counts_after_any_exit(tmp_path: Path) -> None:
    shutil.copytree(SMALL, tmp_path / "run")
    (tmp_path / "run" / "report.json").write_text('{"resolved_ids": ["a__b-7"]}')
    found = {t.instance: t for t in derived(read_run(tmp_path / "run", kv="q8_0/q8_0")).trials}
    assert found["a__b-7"].resolved and found["a__b-5"].overflowed


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
def test_large_runs_give_rows_and_classes(
    earlier: Path, name: str, classes: dict[str, int], patches: int, exceptions: int
) -> None:
    record = read_run(earlier / name)
    logged = read(ROOT / "ci" / "results" / f"{name}.json")
    assert isinstance(logged, Imported) and record.reported == logged.reported
    assert labels(record) == classes and labels(record).total() == 300
    trials = derived(record).trials
    assert sum(trial.patch_bytes > 0 for trial in trials) == patches
    assert sum(trial.exception_as_patch for trial in trials) == exceptions


def test_import_keeps_row_and_adds_reading(tmp_path: Path) -> None:
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
