"""A run directory gives records, or an error of one sentence."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kvci.chain import BEFORE, digest_of
from kvci.cli import main
from kvci.errors import UserError
from kvci.files import sha256_of, write_atomic
from kvci.record.from_run import build
from kvci.record.schema import Record, by_run
from kvci.record.store import read, read_all, write
from kvci.report.update import record_run
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import WAITS, Outcome
from kvci.serve.effective import read as read_log
from kvci.serve.proof import expected_of, judge
from kvci.spec import Spec
from kvci.taxonomy import Class, Exit, Verdict
from tests.conftest import GOLDEN
from tests.record.made import EFFECTIVE, SPEC
from tests.run.made import outcome

FAILED = {
    "exit": Exit.SERVER_FAILED,
    "verdict": Verdict.NOT_GRADED,
    "cls": Class.I2,
    "attempts": 3,
    "server_failures": 3,
    "patch_bytes": 0,
}


LOGS = {arm: (GOLDEN / f"b11434-cpu-{arm}.log").read_text() for arm in ("f16-f16", "q8_0-q8_0")}
"""Logs of a real server. They prove the configuration that SPEC asks for."""
PROVED = {arm.id: judge(read_log(LOGS[arm.id]), expected_of(SPEC, arm)) for arm in SPEC.arms}


def put(path: Path, found: Outcome, where: str = "trials") -> None:
    """Write a trial that ran with the first server of its arm."""
    if found.exit is not Exit.SERVER_FAILED:
        build = PROVED[found.arm].build
        served = {"server": found.server or f"{found.arm}.0", "server_build": build}
        found = found.model_copy(update=served)
    else:
        found = found.model_copy(update={"server_build": ""})
    folder = path / where / found.arm / found.instance / "0"
    end = {"exit": found.exit, "detail": str(found.trial), "patch_sha256": found.patch_sha256}
    line = json.dumps(end | {"patch_bytes": found.patch_bytes, BEFORE: ""})
    found = found.model_copy(update={"trajectory_sha256": digest_of(line)})
    write_atomic(folder / "outcome.json", found.model_dump_json())
    write_atomic(folder / "trajectory.jsonl", f"{line}\n")


def made(path: Path, spec: Spec = SPEC, demo: bool = False) -> Path:
    with RunDirectory(path) as directory:
        directory.open("run", spec, "1" * 64, "2" * 64, "bwrap", demo, ("a", "b"))
    for name in ("a", "b"):
        put(path, outcome("f16-f16", name))
    later = {"start": "2026-01-01T00:02:00Z", "end": "2026-01-01T00:03:00Z"}  # there are 2 slots
    put(path, outcome("q8_0-q8_0", "a", detail=f"{path}/x.log of {Path.home()}/y", **later))
    serve(path, "f16-f16.0", "q8_0-q8_0.0", "q8_0-q8_0.1")
    EFFECTIVE.write(path / "servers" / "q8_0-q8_0+ts0.5.0.json")
    (path / "servers" / "q8_0-q8_0+ts0.5.0.log").touch()
    return path


def serve(path: Path, *servers: str) -> None:
    """Write the logs of these server starts, named ARM.NUMBER."""
    for server in servers:
        arm = server.rpartition(".")[0]
        write_atomic(path / "servers" / f"{server}.log", LOGS[arm])
        PROVED[arm].write(path / "servers" / f"{server}.json")


def record(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["record", *words])
    return done.exit_code, done.output


def test_resumed_run_rewrites_its_one_record_per_arm(tmp_path: Path) -> None:
    run, results, file = made(tmp_path / "run"), tmp_path / "results", tmp_path / "B.md"
    base, arm = record_run(run, results, file).records
    assert (base.complete, arm.complete, arm.total) == (True, False, 2)
    assert arm.effective == (PROVED["q8_0-q8_0"],)
    assert str(tmp_path) not in (results / f"{arm.row_id}.json").read_text()
    assert set(arm.evidence.files) == {
        "servers/q8_0-q8_0.0.json",
        "servers/q8_0-q8_0.0.log",
        "servers/q8_0-q8_0.1.json",
        "servers/q8_0-q8_0.1.log",
        "trials/q8_0-q8_0/a/0/outcome.json",
        "trials/q8_0-q8_0/a/0/trajectory.jsonl",
    }
    assert "interim, no claim" in file.read_text()
    put(run, outcome("q8_0-q8_0", "b", **FAILED))
    put(run, outcome("q8_0-q8_0", "b", detail="old"), "superseded/0")
    arm = record_run(run, results, file).records[1]
    assert arm.complete and len(arm.trials) == 3
    assert [t.cls for t in arm.counted] == [Class.OK, Class.A12]
    assert (arm.resolved, arm.errors, arm.submitted) == (1, 0, 1)
    assert "interim" not in file.read_text()
    assert record("--check", "--results", str(results), "--benchmarks", str(file)) == (0, "")
    assert read_all(results) == record_run(run, results, file).records


def test_record_of_another_run_is_never_overwritten(tmp_path: Path) -> None:
    run, results, file = made(tmp_path / "run"), tmp_path / "results", tmp_path / "B.md"
    own = record_run(run, results, file).records[1]
    path = results / f"{own.row_id}.json"
    other = own.model_copy(update={"run_id": "another"})
    other.write(path)
    code, text = record(str(run), "--results", str(results), "--benchmarks", str(file))
    assert code == 2 and "never overwritten" in text
    stored = read(path)
    assert isinstance(stored, Record) and stored.run_id == "another"


def test_demo_never_leaves_its_folder(tmp_path: Path) -> None:
    run, results, file = made(tmp_path / "run", demo=True), tmp_path / "r", tmp_path / "B.md"
    assert record_run(run, results, file).benchmarks == run / "BENCHMARKS.md"
    assert not results.exists() and not file.exists()
    assert len(read_all(run / "results")) == 2


def test_unverified_trials_never_become_a_row(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    put(run, outcome("q8_0-q8_0", "b", verified=False))
    with pytest.raises(UserError, match="never become a row"):
        build(run)
    script = tmp_path / "script.json"
    script.write_text("{}")
    replay = SPEC.model_copy(update={"engine": f"replay:{script}"})
    with pytest.raises(UserError, match="never become a row"):
        build(made(tmp_path / "replay", replay))


def test_row_without_record_prevents_any_write(tmp_path: Path) -> None:
    run, results, file = made(tmp_path / "run"), tmp_path / "results", tmp_path / "B.md"
    record_run(run, results, file)
    for path in results.glob("*.json"):
        path.unlink()
    file.write_text(file.read_text().replace("f16-f16-", "other-"))
    before = file.read_text()
    code, text = record(str(run), "--results", str(results), "--benchmarks", str(file))
    assert code == 2 and "has no record" in text
    assert file.read_text() == before and not list(results.glob("*.json"))


def test_record_without_run_rewrites_rows(tmp_path: Path) -> None:
    run, results, file = made(tmp_path / "run"), tmp_path / "results", tmp_path / "B.md"
    record_run(run, results, file)
    right = file.read_text()
    file.write_text(right.replace("| f16/f16 |", "| f32/f32 |"))
    where = ("--results", str(results), "--benchmarks", str(file))
    assert record("--check", *where)[0] == 1
    assert record(*where)[0] == 0 and file.read_text() == right


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    assert record(str(tmp_path), "--check")[0] == 2
    assert "cannot be read" in record("--benchmarks", str(tmp_path / "none.md"))[1]
    assert "is not a run folder" in record(str(tmp_path / "none"))[1]


def test_log_that_fails_final_judgement_gives_no_record(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    (run / "servers" / "q8_0-q8_0.0.log").write_text(LOGS["f16-f16"])
    with pytest.raises(UserError, match="does not prove the requested configuration"):
        build(run)


def test_outcome_with_contradicting_class_and_verdict_is_refused(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    path = run / "trials" / "f16-f16" / "a" / "0" / "outcome.json"
    path.write_text(path.read_text().replace('"resolved"', '"empty_patch"'))
    with pytest.raises(UserError, match="do not go together"):
        build(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instance": "b"}, "belongs to f16-f16, b, seed 0"),
        ({"arm": "q4_0-q4_0"}, "belongs to q4_0-q4_0"),
        ({"seed": 1}, "seed 1"),
        (
            {"verdict": Verdict.TESTS_FAIL, "cls": Class.A11A},
            "has verdict tests_fail, but its test report disagrees",
        ),
        ({"patch_sha256": "1" * 64}, "have different patches"),
        ({"patch_bytes": 7}, "says that the patch has 7 bytes, but patch.diff has 3"),
        (
            {"verdict": Verdict.EMPTY_PATCH, "cls": Class.A6},
            "has verdict empty_patch, but its patch has 3",
        ),
        (
            {"exit": Exit.NOT_STARTED, "server": ""},
            r"has class OK \(resolved\), but no conversation took place",
        ),
        ({"server": "f16-f16.x"}, "names the log f16-f16.x.log"),
        ({"server": "f16-f16.7"}, "names the log f16-f16.7.log"),
        ({"server": ""}, "names the log none.log"),
        ({"server": "q8_0-q8_0.0"}, "which belongs to another arm"),
        ({"server_build": "b2"}, "names the build b2"),
    ],
)
def test_trial_is_checked_against_its_files(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    run = made(tmp_path / "run")
    folder = run / "trials" / "f16-f16" / "a" / "0"
    patch, report = b"+x\n", {"resolved": True}
    write_atomic(folder / "patch.diff", patch)
    write_atomic(folder / "grade" / "report.json", json.dumps(report).encode())
    put(run, outcome("f16-f16", "a", patch_sha256=sha256_of(patch), patch_bytes=len(patch)))
    good = Outcome.read(folder / "outcome.json")
    build(run)
    write_atomic(folder / "outcome.json", good.model_copy(update=change).model_dump_json())
    with pytest.raises(UserError, match=message):
        build(run)


def test_unplanned_trial_is_refused(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    put(run, outcome("f16-f16", "c"))
    with pytest.raises(UserError, match="was never planned"):
        build(run)


def test_late_publisher_removes_no_trial(tmp_path: Path) -> None:
    run, results = made(tmp_path / "run"), tmp_path / "results"
    early = build(run)
    put(run, outcome("q8_0-q8_0", "b"))
    newer = build(run)
    write(newer, results)
    write(early, results)
    assert read_all(results) == newer
    write(build(run), results)


def test_rows_show_the_records_that_stay(tmp_path: Path) -> None:
    run, results, file = made(tmp_path / "run"), tmp_path / "results", tmp_path / "B.md"
    late = shutil.copytree(run, tmp_path / "late")
    put(run, outcome("q8_0-q8_0", "b"))
    record_run(run, results, file)
    before = file.read_text()
    record_run(late, results, file)
    assert file.read_text() == before


def test_late_publisher_keeps_one_archive_per_run(tmp_path: Path) -> None:
    """If one arm were written alone, the arms of the run would name two different archives."""
    run, results = made(tmp_path / "run"), tmp_path / "results"

    def located(where: str) -> list[Record]:
        return [
            one.model_copy(update={"evidence": one.evidence.model_copy(update={"where": where})})
            for one in build(run)
        ]

    early = located("https://x/early")
    put(run, outcome("q8_0-q8_0", "b"))
    newer = located("https://x/newer")
    write(newer, results)
    write(early, results)
    assert read_all(results) == newer


def test_trial_that_waits_for_grading_is_not_complete(tmp_path: Path) -> None:
    """If it were complete, a job that ended before its gradings would give the run a claim."""
    run = made(tmp_path / "run")
    waiting = {"verdict": Verdict.GRADING_FAILED, "cls": Class.I3, "detail": WAITS}
    put(run, outcome("q8_0-q8_0", "b", **waiting))
    assert [(one.complete, len(one.trials)) for one in build(run)] == [(True, 2), (False, 1)]


def test_late_publisher_removes_no_grading(tmp_path: Path) -> None:
    run, results = made(tmp_path / "run"), tmp_path / "results"
    graded = build(run)
    path = run / "trials" / "f16-f16" / "b" / "0" / "outcome.json"
    waits = {"cls": Class.I3, "verdict": Verdict.GRADING_FAILED, "why": ""}
    path.write_text(Outcome.read(path).model_copy(update=waits).model_dump_json())
    late = build(run)
    write(late, results)
    write(graded, results)
    write(late, results)
    assert read_all(results) == graded


def test_runs_with_different_starts_are_different(tmp_path: Path) -> None:
    """If they were one run, an arm would be paired with another run's baseline, unnoticed."""
    run = made(tmp_path / "run")
    baseline, arm = build(run)
    other = baseline.model_copy(update={"start": "2026-02-02T10:00:00Z"})
    assert list(map(len, by_run([other, baseline, arm]).values())) == [1, 2]


def test_trial_of_another_shard_is_refused(tmp_path: Path) -> None:
    """If it were accepted, a person could publish chosen trials as a whole shard."""
    run = made(tmp_path / "run")
    put(run, outcome("q8_0-q8_0", "b", shard="1/2"))
    with pytest.raises(UserError, match=r"belongs to shard 1/2, not to shard 1/1"):
        build(run)
    part = made(tmp_path / "other" / "shard-1-of-2")
    with pytest.raises(UserError, match=r"shard-1-of-2 contains shard 1/1"):
        build(part)


def test_diverged_continuations_of_a_run_are_refused(tmp_path: Path) -> None:
    """If they were accepted, the later machine would publish nothing, and no job would fail."""
    run, results = made(tmp_path / "run"), tmp_path / "results"
    first = build(run)
    write(first, results)
    path = run / "trials" / "f16-f16" / "b" / "0" / "outcome.json"
    other = Outcome.read(path).model_copy(update={"start": "2026-01-01T00:00:09Z"})
    path.write_text(other.model_dump_json())
    before = read_all(results)
    with pytest.raises(UserError, match=r"continued this run separately\. That record names no ev"):
        write(build(run), results)
    assert read_all(results) == before
    for one in first:
        located = one.evidence.model_copy(update={"where": "https://x"})
        one.model_copy(update={"evidence": located}).write(results / f"{one.row_id}.json")
    with pytest.raises(UserError, match="the next job resumes from the published evidence"):
        write(build(run), results)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"host": "another"}, "ran on several machines"),
        ({"server_build": "b2"}, "names the build b2"),
        ({"start": "2026-01-03T00:00:01Z"}, "took longer than two days"),
    ],
)
def test_block_has_one_machine_build_and_day(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    run = made(tmp_path / "run")
    build(run)
    path = run / "trials" / "f16-f16" / "b" / "0" / "outcome.json"
    path.write_text(Outcome.read(path).model_copy(update=change).model_dump_json())
    with pytest.raises(UserError, match=message):
        build(run)
