"""Grade trials again from stored patches, rerun them, cross-check them and recompute them."""

import json
import re
import shutil
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kvci.cli import main
from kvci.console import Terminal
from kvci.errors import UserError
from kvci.files import write_atomic
from kvci.plan import Trial, blocks
from kvci.review.exits import COUNTED, conversation_problem
from kvci.review.recompute import DatasetUnavailable, _conversation_difference, differences
from kvci.review.verdicts import verdict_problem
from kvci.run.cross_check import cross_check
from kvci.run.experiment import run
from kvci.run.grader import Grader
from kvci.run.regrade import regrade
from kvci.run.rerun import rerun_spec
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import Graded, Manifest, Outcome
from kvci.rundir.trajectory import replay
from kvci.spec import Rerun, Spec, load
from kvci.tasks.calibration import suite
from kvci.tasks.script import script
from kvci.taxonomy import Class, Exit, Verdict

DATASET = "calibration:split=test,functions=4,count=9"
"""The suite has one instance for each behaviour that grading judges."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Spec, Path]:
    out = tmp_path_factory.mktemp("regrade")
    answers, _ = script(suite(DATASET))
    answers.write(out / "script.json")
    spec = load(
        None,
        {
            "model": {"name": "scripted", "package": "kvci.demo.model:plain"},
            "arms": ["f16/f16"],
            "dataset": DATASET,
            "engine": f"replay:{out / 'script.json'}",
            "context": 4096,
            "slots": 2,
            "max_steps": 8,
            "max_tokens": 200,
            "test_s": 2.0,
            "out": str(out),
        },
    )
    folder, summary = run(spec, "r", Terminal())
    assert summary.complete
    return spec, folder


def outcomes(folder: Path) -> dict[str, Outcome]:
    return {one.instance: one for one in RunDirectory(folder).outcomes()}


def spoil(folder: Path, name: str, **other: object) -> None:
    """Write the outcome of a trial whose grading failed because of infrastructure."""
    path = RunDirectory(folder).trial(Trial("f16-f16", name, 0)) / "outcome.json"
    lost: dict[str, object] = {
        "verdict": Verdict.GRADING_FAILED,
        "cls": Class.I3,
        "why": "",
        "applies": None,
    }
    lost |= {"fail_to_pass": (0, 0), "pass_to_pass": (0, 0), "eval_s": 0.0, "detail": "gone"}
    Outcome.read(path).model_copy(update=lost | other).write(path)


def same(one: Outcome) -> dict[str, object]:
    return one.model_dump(exclude={"eval_s", "detail"})


def test_resume_grades_ungraded_trials(made: tuple[Spec, Path]) -> None:
    spec, folder = made
    before = outcomes(folder)
    for name in before:
        spoil(folder, name)
    run(spec, "r", Terminal())
    after = outcomes(folder)
    assert {name: same(one) for name, one in after.items()} == {
        name: same(one) for name, one in before.items()
    }


def test_grade_regrades_failed_or_all_trials(made: tuple[Spec, Path]) -> None:
    _, folder = made
    before = outcomes(folder)
    name = next(name for name, one in before.items() if one.cls is Class.OK)
    spoil(folder, name)
    done = CliRunner().invoke(main, ["grade", str(folder)])
    assert done.exit_code == 0, done.output
    assert done.output == f"f16-f16 {name}: OK resolved, was I3 grading\n"
    assert same(outcomes(folder)[name]) == same(before[name])
    done = CliRunner().invoke(main, ["grade", str(folder), "--all"])
    assert done.exit_code == 0 and len(done.output.splitlines()) == len(before)
    assert all(same(one) == same(before[name]) for name, one in outcomes(folder).items())
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["arms"][0]["resolved"] == 1


def test_harness_gets_same_time_limit_as_kvci(
    made: tuple[Spec, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an earlier version, the harness timed out on slow gold patches, but kvci did not."""
    _, folder = made
    slow, *others = [one.instance for one in RunDirectory(folder).outcomes() if one.patch_bytes]
    path = RunDirectory(folder).preflight(slow) / "graded.json"
    gold = Graded.read(path)
    asked: dict[str, float] = {}

    def evaluate(_: object, patches: dict[str, str], __: Path, test_s: float) -> dict[str, Any]:
        asked.update(dict.fromkeys(patches, test_s))
        return {}

    monkeypatch.setattr("kvci.run.cross_check.evaluate", evaluate)
    gold.model_copy(update={"eval_s": 50.0}).write(path)
    cross_check(folder)
    gold.write(path)
    assert asked == dict.fromkeys(others, 2.0) | {slow: 100.0}


def test_harness_without_report_agrees_if_its_parser_raises(
    made: tuple[Spec, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = made
    one = next(one for one in outcomes(folder).values() if one.verdict is Verdict.TESTS_FAIL)
    monkeypatch.setattr("kvci.run.cross_check.evaluate", lambda *_: {})
    line = f"f16-f16 {one.instance}: the harness wrote no report for its patch"
    assert line in cross_check(folder)[1]
    report = RunDirectory(folder).trial(one.trial) / "grade" / "report.json"
    kept = report.read_bytes()
    report.write_text('{"resolved": false, "exception": "IndexError"}')
    assert line not in cross_check(folder)[1]
    report.write_bytes(kept)


def test_log_that_no_parser_reads_is_recomputed(made: tuple[Spec, Path], tmp_path: Path) -> None:
    _, folder = made
    known = outcomes(folder)
    one = next(one for one in known.values() if one.verdict is Verdict.TESTS_FAIL)
    row = next(one_.row for one_ in suite(DATASET) if one_.row.instance_id == one.instance)
    row = row.model_copy(update={"log_parser": "parse_log_django"})
    shutil.copytree(RunDirectory(folder).trial(one.trial), tmp_path, dirs_exist_ok=True)
    log = tmp_path / "grade" / "test_output.txt"
    log.write_text(log.read_text().replace(">>>>> End", "FAIL:\n>>>>> End"))
    none = one.model_copy(update={"fail_to_pass": (0, 0), "pass_to_pass": (0, 0)})
    assert verdict_problem(row, none, tmp_path, 1.0) == ""
    resolved = none.model_copy(update={"verdict": Verdict.RESOLVED, "cls": Class.OK})
    assert "its test log gives not resolved" in verdict_problem(row, resolved, tmp_path, 1.0)


def test_doubts_are_recomputed(made: tuple[Spec, Path], tmp_path: Path) -> None:
    _, folder = made
    one = next(one for one in outcomes(folder).values() if one.cls is Class.OK)
    row = next(known.row for known in suite(DATASET) if known.row.instance_id == one.instance)
    shutil.copytree(RunDirectory(folder).trial(one.trial), tmp_path, dirs_exist_ok=True)
    assert one.doubt == "" and verdict_problem(row, one, tmp_path, 1.0) == ""
    log = tmp_path / "grade" / "test_output.txt"
    log.write_text(f"{log.read_text()}>>>>> End Test Output\n")
    reason = "a marker that the script did not print"
    assert f"its test log gives {reason!r}" in verdict_problem(row, one, tmp_path, 1.0)
    said, unsaid = (one.model_copy(update={"doubt": text}) for text in (reason, None))
    assert verdict_problem(row, said, tmp_path, 1.0) == ""
    assert "its doubt is None" in verdict_problem(row, unsaid, tmp_path, 1.0)
    earlier = unsaid.model_copy(update={"trajectory_sha256": ""})  # such an outcome needs a person
    assert verdict_problem(row, earlier, tmp_path, 1.0) == ""


def test_trials_with_class_i4_are_graded_again(made: tuple[Spec, Path]) -> None:
    _, folder = made
    before = outcomes(folder)
    name = next(name for name, one in before.items() if one.cls is Class.OK)
    spoil(folder, name, verdict=Verdict.NOT_GRADED, cls=Class.I4)
    done = CliRunner().invoke(main, ["grade", str(folder)])
    assert (done.exit_code, done.output) == (0, f"f16-f16 {name}: OK resolved, was I4 kvci\n")


def test_verdicts_are_recomputed_from_test_logs(made: tuple[Spec, Path]) -> None:
    _, folder = made
    assert differences(folder) == []
    before = outcomes(folder)
    first = next(one for one in before.values() if one.cls is Class.OK)
    failed = next(one for one in before.values() if one.verdict is Verdict.TESTS_FAIL)
    place = RunDirectory(folder).trial(Trial("f16-f16", first.instance, 0))
    other = RunDirectory(folder).trial(Trial("f16-f16", failed.instance, 0))
    log = place / "grade" / "test_output.txt"
    kept = {
        path: path.read_bytes() for path in (place / "outcome.json", other / "outcome.json", log)
    }
    spoils: tuple[tuple[Path, bytes, str], ...] = (
        (place / "outcome.json", b"", "it counts (0, 1)"),
        (other / "outcome.json", b"", "resolved, but its test log gives not resolved"),
        (
            log,
            kept[log].replace(b"PASSED", b"FAILED"),
            "resolved, but its test log gives not resolved",
        ),
        (log, b"nothing", "resolved, but its tests did not end"),
    )
    for path, content, says in spoils:
        changes: dict[str, object] = {"fail_to_pass": (0, 1)}
        if path.parent == other:
            changes = {"verdict": Verdict.RESOLVED, "cls": Class.OK}
        one = first if path.parent != other else failed
        changed = one.model_copy(update=changes).model_dump_json().encode()
        path.write_bytes(content or changed)
        (line,) = differences(folder)
        assert f"f16-f16, {one.instance}, seed 0: " in line and says in line, line
        path.write_bytes(kept[path])
    log.unlink()
    assert "its test log or its patch is missing" in differences(folder)[0]
    log.write_bytes(kept[log])


def test_counts_are_recomputed_from_trajectories(made: tuple[Spec, Path]) -> None:
    _, folder = made
    assert differences(folder) == []
    first = next(one for one in outcomes(folder).values() if one.cls is Class.OK)
    place = RunDirectory(folder).trial(Trial("f16-f16", first.instance, 0))
    outcome, trajectory = place / "outcome.json", place / "trajectory.jsonl"
    kept = {path: path.read_bytes() for path in (outcome, trajectory)}
    for name in (
        "prefill_tokens",
        "answer_tokens",
        "depth_tokens",
        "prefill_s",
        "decode_s",
        "steps",
    ):
        first.model_copy(update={name: getattr(first, name) + 7}).write(outcome)
        (line,) = differences(folder)
        assert name in line and "its conversation" in line, line
    outcome.write_bytes(kept[outcome])
    count = b'"answer_tokens": '
    for wrong in (b"NaN", b"1e999"):
        trajectory.write_bytes(re.sub(count + rb"\d+", count + wrong, kept[trajectory], count=1))
        assert "its conversation" in differences(folder)[0]
    trajectory.write_bytes(kept[trajectory])
    for name in ("loops", "malformed"):
        first.model_copy(update={name: getattr(first, name) + 1}).write(outcome)
        (line,) = differences(folder)
        assert name in line, line
    outcome.write_bytes(kept[outcome])
    for word, says in ((b"So", "digest"), (b"[home]", "")):
        text = kept[trajectory].replace(b"```bash\\nsubmit", word + b"\\n```bash\\nsubmit")
        assert text != kept[trajectory]
        trajectory.write_bytes(text)
        lines = differences(folder)
        assert (says in lines[0]) if says else lines == []  # redacted text cannot be checked
    trajectory.write_bytes(kept[trajectory])


def test_answer_before_full_context_counts(made: tuple[Spec, Path], tmp_path: Path) -> None:
    """The server refused the next request. An earlier version counted one loop too few."""
    spec, folder = made
    looped = next(one for one in outcomes(folder).values() if one.exit is Exit.LOOP)
    place = RunDirectory(folder).trial(Trial("f16-f16", looped.instance, 0))
    entries = [json.loads(line) for line in (place / "trajectory.jsonl").read_text().splitlines()]
    actions = ["ls", "pwd"] * 3  # the sixth action ends a cycle that repeats three times
    steps = [entry for entry in entries if "step" in entry][:1] * 6
    for number, action in enumerate(actions):
        message = {"role": "assistant", "content": f"```bash\n{action}\n```"}
        steps[number] = steps[number] | {"step": number + 1, "message": message}
    end = {"exit": Exit.CONTEXT_OVERFLOW, "detail": "x" * spec.context}
    trajectory = tmp_path / "trajectory.jsonl"
    trajectory.write_text("\n".join(map(json.dumps, [*steps, entries[2], end])))
    talk = replay(trajectory, spec, Exit.CONTEXT_OVERFLOW)
    names = (
        "exit",
        "steps",
        "loops",
        "prefill_tokens",
        "answer_tokens",
        "depth_tokens",
        "decode_s",
    )
    full = looped.model_copy(
        update={name: getattr(talk, name) for name in names}
        | {"prefill_s": talk.prefill_s, "malformed": 0, "answers_sha256": ""}
    )
    assert (talk.steps, talk.loops) == (7, 1)
    real = spec.model_copy(update={"engine": "embedded"})  # a scripted engine refuses any request
    assert conversation_problem(full, trajectory, real.model_copy(update={"context": 1024})) == ""
    large = real.model_copy(update={"context": 65536})
    assert "tokens of 65536" in conversation_problem(full, trajectory, large)


def test_private_or_changed_dataset_proves_nothing(made: tuple[Spec, Path], tmp_path: Path) -> None:
    spec, folder = made
    (tmp_path / "trials").symlink_to(folder / "trials")
    manifest = Manifest.read(folder / "manifest.json")
    cases: tuple[tuple[dict[str, object], dict[str, object], str], ...] = (
        ({}, {"dataset_sha256": "0" * 64}, "is not the dataset that the run used"),
        ({}, {"planned": ("x",)}, "x is not an instance"),
        ({"dataset": "calibration:nonsense=1"}, {}, "is not an option of"),
    )
    for asked, found, says in cases:
        spec.model_copy(update=asked).write(tmp_path / "spec.json")
        manifest.model_copy(update=found).write(tmp_path / "manifest.json")
        with pytest.raises(UserError, match=says):
            differences(tmp_path)
    for dataset in ("someone/lite", "../x.jsonl", "/x.jsonl"):
        spec.model_copy(update={"dataset": dataset}).write(tmp_path / "spec.json")
        with pytest.raises(DatasetUnavailable, match="not available here"):
            differences(tmp_path)


def test_outcome_must_agree_with_its_files(
    made: tuple[Spec, Path],
) -> None:
    """Earlier versions accepted each of these changes, which make an arm look better or worse."""
    _, folder = made
    first = next(one for one in outcomes(folder).values() if one.cls is Class.OK)
    place = RunDirectory(folder).trial(Trial("f16-f16", first.instance, 0))
    outcome, trajectory = place / "outcome.json", place / "trajectory.jsonl"
    kept = {path: path.read_bytes() for path in (outcome, trajectory)}
    none: dict[str, object] = {"verdict": Verdict.NOT_GRADED}
    cases: tuple[tuple[dict[str, object], str], ...] = (
        ({"exit": Exit.KVCI_FAILED, "cls": Class.A4} | none, "its class should be I4 kvci "),
        (
            {"exit": Exit.SANDBOX_FAILED, "cls": Class.A12} | none,
            "its class should be I1 environment ",
        ),
        ({"applies": False}, "resolved, but its patch was not applied"),
        (
            {"exit": Exit.CONTEXT_OVERFLOW},
            "is context_overflow, but its conversation ends with submitted",
        ),
    )
    for change, says in cases:
        first.model_copy(update=change).write(outcome)
        (line,) = differences(folder)
        assert says in line, line
    trajectory.write_bytes(kept[trajectory].replace(b"```bash", b"[home] ```bash", 1))
    first.model_copy(update={"loops": 1}).write(outcome)
    assert "1 loops, but its conversation has 0" in differences(folder)[0], "redaction only adds"
    for path, content in kept.items():
        path.write_bytes(content)
    other = RunDirectory(folder).trial(Trial("f16-f16", first.instance, 1)) / "outcome.json"
    invalid = {"exit": Exit.NOT_STARTED, "cls": Class.I0, "seed": 1, "verdict": Verdict.TESTS_FAIL}
    write_atomic(other, first.model_copy(update=invalid).model_dump_json())
    line, gold = differences(folder)
    shutil.rmtree(other.parent)
    assert "is invalid for f16-f16, but not for another trial" in line
    assert "invalid, but the gold patch's verdict is resolved" in gold


def test_redaction_does_not_create_loops(made: tuple[Spec, Path], tmp_path: Path) -> None:
    """In an earlier version, three commands with different home folders became equal here."""
    spec, folder = made
    first = next(one for one in outcomes(folder).values() if one.cls is Class.OK)
    place = RunDirectory(folder).trial(Trial("f16-f16", first.instance, 0))
    entries = [json.loads(line) for line in (place / "trajectory.jsonl").read_text().splitlines()]
    step = next(entry for entry in entries if "step" in entry)
    message = step["message"] | {"content": "```bash\nls [home]\n```"}
    steps = [step | {"step": number, "message": message} for number in (1, 2, 3)]
    end = {"exit": Exit.STEP_LIMIT, "detail": ""}
    trajectory = tmp_path / "trajectory.jsonl"
    trajectory.write_text("\n".join(map(json.dumps, [*steps, end])))
    shutil.copy(place / "patch.diff", tmp_path)
    spec = spec.model_copy(update={"max_steps": 3})
    found, names = replay(trajectory, spec, Exit.STEP_LIMIT), ("steps", "malformed", *COUNTED)
    limit = first.model_copy(
        update={name: getattr(found, name) for name in names}
        | {"exit": Exit.STEP_LIMIT, "verdict": Verdict.TESTS_FAIL, "cls": Class.A4}
    )
    row = next(one.row for one in suite(DATASET) if one.row.instance_id == first.instance)
    assert found.exit is Exit.LOOP and _conversation_difference(row, limit, tmp_path, spec) == ""
    again = limit.model_copy(update={"cls": Class.A3})
    assert "its class should be A2 loop " in _conversation_difference(row, again, tmp_path, spec)


def test_verdict_stays_when_regrading_fails(
    made: tuple[Spec, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = made
    before = outcomes(folder)

    name = next(name for name, one in before.items() if one.cls is Class.OK)
    log = RunDirectory(folder).trial(Trial("f16-f16", name, 0)) / "grade" / "test_output.txt"
    proof = log.read_bytes()

    def fails(*words: Any) -> Future[Graded]:
        words[3].mkdir(parents=True)
        (words[3] / "test_output.txt").write_text("cut")
        ended: Future[Graded] = Future()
        ended.set_result(Graded(verdict=Verdict.GRADING_FAILED, detail="gone"))
        words[4](ended.result())
        return ended

    monkeypatch.setattr(Grader, "submit", fails)
    done = CliRunner().invoke(main, ["grade", str(folder), "--all"])
    assert done.exit_code == 1 and f"{name}: not graded, still OK resolved" in done.output
    assert "was OK" not in done.output
    assert outcomes(folder) == before and log.read_bytes() == proof


def test_trials_of_another_machine_are_not_regraded(made: tuple[Spec, Path]) -> None:
    _, folder = made
    before = outcomes(folder)
    name = next(name for name, one in before.items() if one.cls is Class.OK)
    spoil(folder, name, host="0123456789ab", cls=Class.I3, verdict=Verdict.GRADING_FAILED)
    try:
        for words in ([], ["--all"]):
            done = CliRunner().invoke(main, ["grade", str(folder), *words])
            assert done.exit_code == 1 and "1 trials" in done.output
            assert "ran on machine 0123456789ab; grade them there" in done.output
            assert f"{name}: not graded, still I3 grading" in done.output
            assert outcomes(folder)[name].verdict is Verdict.GRADING_FAILED
    finally:
        before[name].write(RunDirectory(folder).trial(Trial("f16-f16", name, 0)) / "outcome.json")


def test_rerun_selects_matching_trials_and_same_dataset(
    made: tuple[Spec, Path], tmp_path: Path
) -> None:
    spec, folder = made
    two = tmp_path / "two"
    (two / "trials").mkdir(parents=True)
    arms = spec.model_validate(spec.model_dump() | {"arms": ["f16/f16", "q8_0/q8_0", "q4_0/q4_0"]})
    arms.model_copy(update={"dataset": "lite", "time_budget_s": 60.0}).write(two / "spec.json")
    manifest = Manifest.read(folder / "manifest.json")
    manifest.model_copy(update={"dataset_revision": "abc"}).write(two / "manifest.json")
    first, second, *_ = trials_before = list(outcomes(folder).values())
    lost = {"exit": Exit.SANDBOX_FAILED, "cls": Class.I1, "verdict": Verdict.NOT_GRADED}
    ended = {"f16-f16": (first, second), "q8_0-q8_0": (second,), "q4_0-q4_0": ()}
    for arm, failed in ended.items():
        for one in trials_before:
            other = one.model_copy(update={"arm": arm} | (lost if one in failed else {}))
            other.write(two / "trials" / arm / one.instance / "0" / "outcome.json")
    again = rerun_spec(two, "I1", None, False)
    assert again.dataset == "lite@abc" and again.dataset_name == "lite"
    assert [arm.id for arm in again.arms] == ["f16-f16", "q8_0-q8_0"] and not again.time_budget_s
    trials = {
        (trial.arm, trial.instance)
        for block in blocks(sorted(outcomes(folder)), again)
        for arm in block.arms
        for trial in block.trials(arm)
    }
    assert trials == {(arm, one.instance) for arm, failed in ended.items() for one in failed}
    assert again.trials_of_arms(again.instances) == {"f16-f16": 2, "q8_0-q8_0": 1}


def test_rerun_with_another_model_or_dataset_is_refused(
    made: tuple[Spec, Path], tmp_path: Path
) -> None:
    _, folder = made
    for name in ("spec.json", "trials"):
        (tmp_path / name).symlink_to(folder / name)
    manifest = Manifest.read(folder / "manifest.json")
    for kind in ("model", "dataset"):
        other = manifest.model_copy(update={f"{kind}_sha256": "0" * 64})
        other.write(tmp_path / "manifest.json")
        words = ["rerun", str(tmp_path), "--class", "OK", "--out", str(tmp_path / "out")]
        done = CliRunner().invoke(main, words)
        assert (
            done.exit_code == 2
            and f"The {kind} differs from the {kind} of the run r" in done.output
        )
        assert not (tmp_path / "out").exists()


def test_empty_patch_needs_no_image(
    made: tuple[Spec, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = made
    asked: list[set[str]] = []

    def waves(_: Spec, __: object, names: set[str], *___: object) -> list[set[str]]:
        asked.append(set(names))
        return []

    before = outcomes(folder)
    monkeypatch.setattr("kvci.run.regrade.waves", waves)
    changed, left = regrade(folder, everything=True)
    empty = {
        name for name, one in before.items() if one.exit is Exit.SUBMITTED and not one.patch_bytes
    }
    assert empty and {one.instance for _, one in changed} >= empty
    assert asked == [{one.instance for one in left}] and not empty & asked[0]
    assert outcomes(folder) == before


def test_regrade_with_changed_dataset_is_refused(made: tuple[Spec, Path], tmp_path: Path) -> None:
    spec, folder = made
    other = spec.model_copy(update={"dataset": DATASET.replace("count=9", "count=10")})
    kept = (folder / "spec.json").read_bytes()
    try:
        other.write(folder / "spec.json")
        done = CliRunner().invoke(main, ["grade", str(folder)])
    finally:
        (folder / "spec.json").write_bytes(kept)
    assert done.exit_code == 2 and "changed after" in done.output
    assert CliRunner().invoke(main, ["grade"]).exit_code == 2


def test_rerun_has_instances_and_arms_of_matches(made: tuple[Spec, Path], tmp_path: Path) -> None:
    _, folder = made
    before = outcomes(folder)
    names = sorted(name for name, one in before.items() if one.cls in (Class.A6, Class.OK))
    words = ["rerun", str(folder), "--class", "A6,OK", "--out", str(tmp_path), "--run-id", "again"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    after = outcomes(tmp_path / "again")
    assert {name: one.cls for name, one in after.items()} == {n: before[n].cls for n in names}
    spec = Spec.read(tmp_path / "again" / "spec.json")
    had = Manifest.read(folder / "manifest.json")
    of = Rerun(
        of="r",
        filter="A6,OK",
        instances={"f16-f16": tuple(names)},
        model_sha256=had.model_sha256,
        dataset_sha256=had.dataset_sha256,
    )
    assert spec.rerun == of and spec.instances == tuple(names)
    began = Spec.read(folder / "spec.json").model_copy(update={"start": "2026-01-01T00:00:00Z"})
    (tmp_path / "other").mkdir()
    began.write(tmp_path / "other" / "spec.json")
    for name in ("manifest.json", "trials"):
        (tmp_path / "other" / name).symlink_to(folder / name)
    taken = rerun_spec(tmp_path / "other", "A6", None, False)
    assert taken.start is None and taken.rerun and taken.rerun.of == "r"
    for wrong, sentence in (
        ([], "--class, --filter or --errors"),
        (["--errors"], "No trial of"),
        (["--class", "B1"], "B1 is not a class"),
        (["--filter", "("], "regular expression"),
    ):
        done = CliRunner().invoke(main, ["rerun", str(folder), *wrong])
        assert done.exit_code == 2 and sentence in done.output
    done = CliRunner().invoke(main, ["rerun", str(tmp_path / "again"), "--filter", "x"])
    assert done.exit_code == 2 and "is a rerun itself" in done.output
