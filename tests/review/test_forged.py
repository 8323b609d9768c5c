"""What a dishonest runner may write into its evidence, and what the review then says.

The evidence is that of a real run of a model that q4_0 harms. Each forgery makes the hashes of the
archive right again, because a runner can do that too.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kvci.chain import BEFORE, digest_of
from kvci.console import Terminal
from kvci.errors import UserError
from kvci.files import sha256_of
from kvci.github import Ran
from kvci.plan import Trial
from kvci.publish.pull_request import Target, with_evidence
from kvci.record.bundle import pack
from kvci.record.from_run import build
from kvci.record.places import BENCHMARKS, RESULTS
from kvci.report.benchmarks import EMPTY, render
from kvci.review.comment import comment
from kvci.review.exits import COUNTED
from kvci.review.rows import Review, review
from kvci.review.workflow import Lookup
from kvci.run.experiment import run
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import ATTEMPTS, Attempts, FailedAttempt, Graded, Outcome, now
from kvci.rundir.trajectory import replay
from kvci.spec import load
from kvci.taxonomy import Class, Exit, Verdict

WORKFLOW = "77"
GOOD, HARMED = "f16-f16", "q4_0-q4_0"


@pytest.fixture(autouse=True)
def no_recomputing() -> None:
    """The instances of this run are public, so this module recomputes them."""


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six instances, in which f16 resolves more than q4_0."""
    spec = load(
        None,
        {
            "model": {"name": "twin", "package": "kvci.demo.model:strong_twin"},
            "arms": ["f16/f16", "q4_0/q4_0"],
            "dataset": "calibration:split=test,functions=4,count=6",
            "engine": "embedded",
            "context": 4096,
            "slots": 2,
            "threads": 1,
            "max_steps": 6,
            "max_tokens": 128,
            "block_size": 6,
            "margin": 0.25,
            "out": str(tmp_path_factory.mktemp("forged")),
        },
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GITHUB_RUN_ID", WORKFLOW)
        folder, summary = run(spec, "r", Terminal(quiet=True))
    (folder / "asked").write_text(spec.asked)  # as GitHub keeps it
    assert summary.complete and len(failing(folder)) >= 3
    return folder


@pytest.fixture
def forged(honest: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be forged."""
    return Path(shutil.copytree(honest, tmp_path / "run"))


def failing(run: Path) -> list[Outcome]:
    """Return the trials of the harmed arm that fail, although the baseline resolves them."""
    outcomes = RunDirectory(run).outcomes()
    good = {one.instance for one in outcomes if one.arm == GOOD and one.cls is Class.OK}
    harmed = [one for one in outcomes if one.arm == HARMED and one.cls is not Class.OK]
    return [one for one in harmed if one.instance in good]


def known(run: Path, **other: Any) -> Ran:
    """Return what GitHub knows about the workflow run of the trials."""
    start = RunDirectory(run).manifest.start
    fields = {"created": start, "updated": now(), "asked": {(run / "asked").read_text()}}
    return Ran(**fields | other)


def reviewed(run: Path, lookup: Lookup | None = None) -> tuple[Review, str]:
    """Return the review of a pull request with this run, and the comment."""
    ran = known(run)
    archive = pack(run)
    records = with_evidence(build(run), archive, Target("owner/name", ""))
    head = {f"{RESULTS}/{one.row_id}.json": one.model_dump_json(indent=1) for one in records}
    head[BENCHMARKS] = render(EMPTY, records)
    files = {path: text.encode() for path, text in head.items()}
    found = review(
        {BENCHMARKS: EMPTY.encode()}, files, lambda url: archive, lookup or {int(WORKFLOW): ran}.get
    )
    return found, comment(found, accepted=False)


def folder(run: Path, one: Outcome, arm: str = HARMED) -> Path:
    return RunDirectory(run).trial(Trial(arm, one.instance, one.seed))


def change(folder: Path, **fields: Any) -> None:
    """Change fields of a trial's outcome."""
    path = folder / "outcome.json"
    Outcome.read(path).model_copy(update=fields).write(path)


def chain(folder: Path, edit: Callable[[list[dict[str, Any]]], object]) -> None:
    """Edit a trial's conversation, and make all digests right again."""
    path, digest, written = folder / "trajectory.jsonl", "", []
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    edit(entries)
    for entry in entries:
        written.append(json.dumps(entry | {BEFORE: digest}))
        digest = digest_of(written[-1])
    path.write_text("".join(f"{line}\n" for line in written))
    change(folder, trajectory_sha256=digest)


def swap_patches(run: Path) -> Iterator[tuple[Path, Outcome]]:
    """Put the baseline's patches and test logs in the place of those that fail."""
    graded = ("verdict", "cls", "why", "applies", "fail_to_pass", "pass_to_pass", "eval_s")
    patch = ("patch_sha256", "patch_bytes", "log_sha256")
    for one in failing(run):
        to, source = folder(run, one), folder(run, one, GOOD)
        shutil.copy(source / "patch.diff", to)
        shutil.rmtree(to / "grade", ignore_errors=True)
        shutil.copytree(source / "grade", to / "grade")
        good = Outcome.read(source / "outcome.json")
        change(to, **{name: getattr(good, name) for name in (*graded, *patch)})
        yield to, good


def test_honest_run_passes(honest: Path) -> None:
    found, text = reviewed(honest)
    assert (found.problems, found.unattested) == ((), ())
    recomputed, _, on_word = text.partition("This review recomputed:")[2].partition("word alone")
    assert "from the test logs" in recomputed and "forges all of them together" in on_word


def test_patches_of_another_arm_are_a_problem(forged: Path) -> None:
    """All trials of the harmed arm are then resolved."""
    count = len(list(swap_patches(forged)))
    found, _ = reviewed(forged)
    wrong = [line for line in found.problems if "did not end with its patch" in line]
    assert len(wrong) == count and not found.passes(accepted=True)


def test_patches_of_another_arm_are_noted_in_rewritten_conversations(forged: Path) -> None:
    """The conversations then name these patches, but no message of them shows their lines."""
    for to, good in swap_patches(forged):
        named = {"patch_sha256": good.patch_sha256, "patch_bytes": good.patch_bytes}
        chain(to, lambda entries, named=named: entries[-1].update(named))  # type: ignore[misc]
    found, text = reviewed(forged)
    assert f"{HARMED}: the patches of" in str(found.notes) and "no message" in text


def move_conversations(run: Path) -> list[Outcome]:
    """Put the baseline's conversations in the place of those that fail; return these trials."""
    moved = failing(run)
    for one in moved:
        to = folder(run, one)
        own = Outcome.read(to / "outcome.json")
        shutil.rmtree(to)
        shutil.copytree(folder(run, one, GOOD), to)
        change(to, arm=HARMED, server=own.server, start=own.start, end=own.end)
    return moved


def timing_lines(log: Path, with_times: bool) -> str:
    """Return the lines of a server's log that show times of answers, or all other lines."""
    lines = log.read_text().splitlines(keepends=True)
    return "".join(line for line in lines if ("eval time" in line) == with_times)


def test_conversations_of_another_arm_are_a_problem(forged: Path) -> None:
    """The log of a server shows the times of its answers."""
    moved = move_conversations(forged)
    found, _ = reviewed(forged)
    wrong = [line for line in found.problems if "does not show its answers" in line]
    assert len(wrong) == len(moved)


@pytest.mark.parametrize("logs", ["one", "each"])
def test_log_without_times_needs_a_maintainer(logs: str, forged: Path) -> None:
    """Otherwise, such a log could stand for the conversations of another arm."""
    log = forged / "servers" / f"{HARMED}.0.log"
    log.write_text(timing_lines(log, with_times=False))
    for number, one in enumerate(o for o in RunDirectory(forged).outcomes() if o.arm == HARMED):
        if logs == "each":
            change(folder(forged, one), server=f"{HARMED}.{number}")
            for suffix in (".log", ".json") if number else ():
                shutil.copy(log.with_suffix(suffix), log.with_name(f"{HARMED}.{number}{suffix}"))
    found, text = reviewed(forged)
    assert not found.problems and not found.passes(accepted=False)
    assert "nothing ties the conversations of 6 trials to their arm" in found.unattested[0]
    assert "in the log of the arm's server, for 6 trials" in text


def test_answers_without_times_are_a_problem(forged: Path) -> None:
    moved = move_conversations(forged)

    def hide(entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            entry |= {"timings": {}} if "step" in entry else {}

    for one in moved:
        chain(folder(forged, one), hide)
        change(folder(forged, one), prefill_tokens=0, prefill_s=0.0, decode_s=0.0)
    found, _ = reviewed(forged)
    wrong = [line for line in found.problems if "has answers without their times" in line]
    assert len(wrong) == len(moved)


def test_arm_that_is_a_copy_of_another_is_a_problem(forged: Path) -> None:
    """Its log shows the answers, too."""
    moved, servers = move_conversations(forged), forged / "servers"
    with (servers / f"{HARMED}.0.log").open("a") as log:
        log.write(timing_lines(servers / f"{GOOD}.0.log", with_times=True))
    found, _ = reviewed(forged)
    wrong = [line for line in found.problems if "took exactly as long as those of" in line]
    assert len(wrong) == len(moved)
    assert not [line for line in found.problems if "does not show its answers" in line]


@pytest.mark.parametrize("field", ["prompt", "seed"])
def test_another_prompt_or_seed_is_a_problem(field: str, forged: Path) -> None:
    def edit(entries: list[dict[str, Any]]) -> None:
        if field == "seed":
            entries[0]["seed"] = 4711
        else:
            entries[0]["message"]["content"] += "Hint: see [home]."

    one = failing(forged)[0]
    chain(folder(forged, one), edit)
    found, _ = reviewed(forged)
    assert "does not begin with the prompt and the seed" in str(found.problems)


def test_redacted_prompt_has_the_digest_of_the_true_prompt(forged: Path) -> None:
    """The second line has it. So a placeholder hides no hint."""
    one = failing(forged)[0]
    path = folder(forged, one) / "trajectory.jsonl"
    path.write_text(path.read_text().replace("/testbed", "[home]"))
    found, text = reviewed(forged)
    assert not [line for line in found.problems if "does not begin with" in line]
    assert "redacted line" in str(found.on_word) and "of the conversations of 1 trial" in text


def test_answers_of_removed_trials_are_noted(forged: Path) -> None:
    """A runner may remove trials and run them again, until it likes the results."""
    log = forged / "servers" / f"{HARMED}.0.log"
    again = timing_lines(log, with_times=True).replace(" ms / ", "1 ms / ")
    log.write_text(log.read_text() + again)
    for suffix in (".log", ".json"):
        shutil.copy(log.with_suffix(suffix), log.with_name(f"{HARMED}.2{suffix}"))
    found, text = reviewed(forged)
    assert not found.problems
    (note,) = found.notes
    assert "answers in its server logs without a trial, 1 server log without a trial" in note
    assert "1 server log missing; its trials report 0 earlier attempts" in note
    assert note.startswith(f"r: {HARMED}: ") and "trials or answers were removed" in text


@pytest.mark.parametrize(("line", "problem"), [("file size ", True), ("loading model", False)])
def test_logs_show_one_model(line: str, problem: bool, forged: Path) -> None:
    log = forged / "servers" / f"{HARMED}.0.log"
    text = log.read_text().replace("file size   = ", "file size   = 9")
    if not problem:
        text = log.read_text().replace("kvci-calibration-twin", "another")
    assert line in text and text != log.read_text()
    log.write_text(text)
    found, _ = reviewed(forged)
    assert ("show different models" in str(found.problems)) == problem
    assert ("name different files of the model" in str(found.notes)) != problem


def test_changed_files_break_the_chain(forged: Path) -> None:
    one = failing(forged)[0]
    to = folder(forged, one)
    trajectory, log = to / "trajectory.jsonl", to / "grade" / "test_output.txt"
    first, *rest = trajectory.read_text().splitlines()
    cases = [
        (trajectory, "\n".join([first, rest[0], rest[2], *rest[1:]]), "does not follow"),
        (
            trajectory,
            "\n".join([first, *rest[:-1], rest[-1].replace('"detail": "', '"detail": "x')]),
            "its recorded",
        ),
    ]
    if log.exists():
        cases.append((log, log.read_text() + "\n", "its test log does not have its recorded"))
    for path, text, says in cases:
        kept = path.read_text()
        path.write_text(text)
        found, _ = reviewed(forged)
        assert any(says in line for line in found.problems), (says, found.problems)
        path.write_text(kept)


def test_conversation_without_patch_needs_a_maintainer(forged: Path) -> None:
    """A runner could also write evidence as an earlier kvci did."""
    for one in RunDirectory(forged).outcomes():
        change(folder(forged, one, one.arm), trajectory_sha256="")
    found, _ = reviewed(forged)
    assert "12 of 12 trials do not name their patches" in found.unattested[0]


def drop(run: Path, one: Outcome, **fields: Any) -> Path:
    """Turn a trial into one that infrastructure ended."""
    to = folder(run, one, one.arm)
    none = {"patch_bytes": 0, "patch_sha256": sha256_of(b""), "applies": None, "eval_s": 0.0}
    none |= {"fail_to_pass": (0, 0), "pass_to_pass": (0, 0), "log_sha256": "", "detail": "gone"}
    change(to, verdict=Verdict.NOT_GRADED, **none | fields)
    shutil.rmtree(to / "grade", ignore_errors=True)
    (to / "patch.diff").unlink(missing_ok=True)
    return to


def account(one: Outcome, ended: Exit | Verdict) -> FailedAttempt:
    """Return the account of an attempt that infrastructure ended."""
    fields: dict[str, Any] = {"start": one.start, "end": one.end, "ended": ended}
    return FailedAttempt(**fields, detail="gone", sandbox_problem="", free_bytes=1)


def to_i1(run: Path, one: Outcome, accounted: bool = True) -> None:
    """Turn a trial into class I1, with three attempts that infrastructure ended."""
    why = {"exit": Exit.SANDBOX_FAILED, "cls": Class.I1, "attempts": 3}
    to = drop(run, one, why="exit sandbox_failed", **why)
    if accounted:
        attempts = (account(one, Exit.SANDBOX_FAILED),) * 3
        Attempts(attempts=attempts).write(to / ATTEMPTS)


def test_failing_trials_made_i1_need_a_maintainer(forged: Path) -> None:
    """Then the harmed arm has no failing trial, and the baseline keeps all of its trials."""
    lost = failing(forged)
    for one in lost:
        to_i1(forged, one)
    found, text = reviewed(forged)
    assert not found.problems and not found.passes(accepted=False)
    assert f"{len(lost)} of 6 trials are excluded" in text
    assert f"({len(lost)} I1 environment)" in found.unattested[0]


def test_excluded_trials_in_both_arms_need_a_maintainer(forged: Path) -> None:
    lost = failing(forged)
    for one in lost:
        to_i1(forged, one)
        to_i1(forged, Outcome.read(folder(forged, one, GOOD) / "outcome.json"))
    found, _ = reviewed(forged)
    assert len([line for line in found.unattested if "are excluded" in line]) == 2


def test_excluded_trial_needs_its_account(forged: Path) -> None:
    one = failing(forged)[0]
    to_i1(forged, one, accounted=False)
    found, _ = reviewed(forged)
    assert found.unattested and "no file says how infrastructure ended 1 trials" in str(found)
    to_i1(forged, one)
    assert not reviewed(forged)[0].unattested, "one excluded trial of an arm is accepted"
    change(folder(forged, one), detail="the disk was full")
    assert "but its last attempt ended with sandbox_failed (gone)" in str(reviewed(forged)[0])
    (folder(forged, one) / ATTEMPTS).write_text("{}")
    assert "attempts.json is not valid" in str(reviewed(forged)[0].problems)


def test_ungraded_trial_needs_the_account_of_its_grading(forged: Path) -> None:
    """The detail of such an outcome may be that of its conversation, for example 6 steps."""
    one = failing(forged)[0]
    to, detail = folder(forged, one), {"detail": "6 steps"}
    change(to, verdict=Verdict.GRADING_FAILED, cls=Class.I3, applies=None, **detail)
    change(to, fail_to_pass=(0, 0), pass_to_pass=(0, 0), log_sha256="", doubt=None)
    shutil.rmtree(to / "grade", ignore_errors=True)
    assert "how infrastructure ended 1 trials" in str(reviewed(forged)[0].unattested)
    attempt = account(one, Verdict.GRADING_FAILED)
    Attempts(attempts=(attempt,) * 3).write(to / "grade" / ATTEMPTS)
    found, _ = reviewed(forged)
    assert (found.problems, found.unattested) == ((), ())


def to_i0(run: Path, one: Outcome) -> Path:
    """Turn an instance's trials into class I0; return the folder of its gold patch's grading."""
    fields = {"exit": Exit.NOT_STARTED, "cls": Class.I0, "why": "", "attempts": 0}
    for arm in (GOOD, HARMED):
        this = Outcome.read(folder(run, one, arm) / "outcome.json")
        to = drop(run, this, **fields, server="", server_build="", applies=False)
        change(to, verdict=Verdict.TESTS_FAIL)
        (to / "trajectory.jsonl").unlink()
    return run / "preflight" / one.host / one.instance


def test_instance_is_invalid_only_with_logs_that_show_it(forged: Path) -> None:
    one = failing(forged)[0]
    gold = to_i0(forged, one)
    kept = {path: path.read_bytes() for path in gold.rglob("*") if path.is_file()}
    assert "the gold patch's verdict is resolved" in str(reviewed(forged)[0].problems)
    graded = Graded.read(gold / "graded.json")
    graded.model_copy(update={"verdict": Verdict.TESTS_FAIL}).write(gold / "graded.json")
    assert "test logs show that the gold patch resolves it" in str(reviewed(forged)[0].problems)

    base, log = gold / "base" / "test_output.txt", gold / "test_output.txt"
    base.write_bytes(kept[log])  # the tests pass without any patch
    assert reviewed(forged)[0].passes(accepted=False)
    base.write_bytes(kept[base])
    log.write_text(log.read_text().replace("PASSED", "FAILED"))
    assert reviewed(forged)[0].passes(accepted=False)

    log.unlink()
    found, text = reviewed(forged)
    assert not found.problems and not found.passes(accepted=False)
    assert "no finished test log shows that 1 instance may be dropped" in text
    shutil.rmtree(gold)
    assert "the gold patch was not graded" in str(reviewed(forged)[0].problems)


def test_many_invalid_instances_need_a_maintainer(forged: Path) -> None:
    """A runner that wants to hide harm can forge the gold patches' logs too."""
    for one in (lost := failing(forged)):
        gold = to_i0(forged, one)
        log = gold / "test_output.txt"
        log.write_text(log.read_text().replace("PASSED", "FAILED"))
        graded = Graded.read(gold / "graded.json")
        graded.model_copy(update={"verdict": Verdict.TESTS_FAIL}).write(gold / "graded.json")
    found, _ = reviewed(forged)
    assert not found.problems and len(lost) >= 3
    assert f"({len(lost)} I0 instance invalid)" in found.unattested[0]


UNTESTED: dict[str, Any] = {"fail_to_pass": (0, 0), "pass_to_pass": (0, 0), "doubt": None}


def of_baseline(run: Path) -> list[tuple[Path, Outcome]]:
    """Return the baseline's resolved trials and their folders."""
    found = [one for one in RunDirectory(run).outcomes() if one.arm == GOOD]
    return [(folder(run, one, GOOD), one) for one in found if one.cls is Class.OK]


def regraded(to: Path, verdict: Verdict, cls: Class, **fields: Any) -> None:
    """Give a trial another verdict, which has no test report."""
    (to / "grade" / "report.json").unlink(missing_ok=True)
    log = to / "grade" / "test_output.txt"
    digest = sha256_of(log.read_bytes()) if log.exists() else ""
    why = f"verdict {verdict}"
    change(to, verdict=verdict, cls=cls, why=why, log_sha256=digest, **UNTESTED | fields)


def without_end_marker(run: Path) -> None:
    for to, _ in of_baseline(run):
        log = to / "grade" / "test_output.txt"
        log.write_text(log.read_text().partition(">>>>> End")[0])
        regraded(to, Verdict.TESTS_FAIL, Class.A11A)


def quick_timeout(run: Path) -> None:
    for to, _ in of_baseline(run):
        regraded(to, Verdict.TEST_TIMEOUT, Class.A10)


def timeout_after_the_tests(run: Path) -> None:
    to, _ = of_baseline(run)[0]
    test_s = RunDirectory(run).spec.test_s
    regraded(to, Verdict.TEST_TIMEOUT, Class.A10, eval_s=test_s)


def not_applied(run: Path) -> None:
    for to, _ in of_baseline(run):
        regraded(to, Verdict.APPLY_FAILED, Class.A7, applies=False)


def ungraded(run: Path) -> None:
    to, one = of_baseline(run)[0]
    regraded(to, Verdict.GRADING_FAILED, Class.I3, applies=None, detail="gone")
    attempts = (account(one, Verdict.GRADING_FAILED),) * 3
    Attempts(attempts=attempts).write(to / "grade" / ATTEMPTS)


def as_an_earlier_kvci(run: Path) -> None:
    to, _ = of_baseline(run)[0]
    log = to / "grade" / "test_output.txt"
    log.write_text(f"{log.read_text()}+ : '>>>>> Start Test Output'\n")
    change(to, log_sha256=sha256_of(log.read_bytes()), doubt=None)
    RunDirectory(run).manifest.model_copy(update={"kvci": "0.1.0"}).write(run / "manifest.json")


def to_a12(run: Path, accounted: bool) -> None:
    for to, one in of_baseline(run):
        why = {"exit": Exit.SERVER_FAILED, "cls": Class.I2, "attempts": 3, "doubt": None}
        drop(run, one, why="exit server_failed", server_failures=3, **why)
        if accounted:
            Attempts(attempts=(account(one, Exit.SERVER_FAILED),) * 3).write(to / ATTEMPTS)


def without_account(run: Path) -> None:
    to_a12(run, accounted=False)


def failed_by_their_server(run: Path) -> None:
    to_a12(run, accounted=True)


def fewer_attempts(run: Path) -> None:
    one = failing(run)[0]
    to_i1(run, one)
    account_of = folder(run, one) / ATTEMPTS
    Attempts(attempts=(account(one, Exit.SANDBOX_FAILED),)).write(account_of)


def ended(run: Path, exit: Exit, cls: Class, answers: int = 99) -> None:
    """End the baseline's conversations after so many answers, with an empty patch."""
    spec = RunDirectory(run).spec
    empty = {"patch_sha256": sha256_of(b""), "patch_bytes": 0}

    def edit(entries: list[dict[str, Any]]) -> None:
        steps = [number for number, entry in enumerate(entries) if "step" in entry]
        del entries[[*steps, len(entries) - 1][min(answers, len(steps))] : -1]
        entries[-1].update(empty, exit=exit)

    for to, _ in of_baseline(run):
        chain(to, edit)
        (to / "patch.diff").write_bytes(b"")
        shutil.rmtree(to / "grade")
        found = replay(to / "trajectory.jsonl", spec, exit)
        fields = {name: getattr(found, name) for name in ("steps", "loops", *COUNTED)}
        digest = sha256_of(json.dumps(found.answers, sort_keys=True).encode())
        change(to, **fields, answers_sha256=digest)
        change(to, exit=exit, **empty, applies=None)
        regraded(to, Verdict.EMPTY_PATCH, cls)


def without_submit(run: Path) -> None:
    for to, _ in of_baseline(run):
        chain(to, lambda entries: entries.pop(-2))


def other_limit(run: Path, **fields: Any) -> None:
    respecify(run, **fields)
    (run / "asked").write_text(RunDirectory(run).spec.asked)


def redacted_loops(run: Path) -> None:
    """The first three actions are the same redacted one, and the outcome says that none repeats."""

    def edit(entries: list[dict[str, Any]]) -> None:
        for entry in [entry for entry in entries if "step" in entry][:3]:
            entry["message"]["content"] = "```bash\necho [home]\n```"

    chain(of_baseline(run)[0][0], edit)


def invalid_without_log(run: Path, logged: bool = False) -> None:
    one = failing(run)[0]
    gold = to_i0(run, one)
    for arm in (GOOD, HARMED):
        change(folder(run, one, arm), verdict=Verdict.APPLY_FAILED)
    fields = {"verdict": Verdict.APPLY_FAILED, "applies": False}
    Graded.read(gold / "graded.json").model_copy(update=fields).write(gold / "graded.json")
    if not logged:
        (gold / "test_output.txt").unlink()


def without_preflight(run: Path) -> None:
    shutil.rmtree(run / "preflight")


def on_other_host(run: Path) -> None:
    for one in RunDirectory(run).outcomes():
        change(folder(run, one, one.arm), host="0123456789ab")


Forgery = Callable[[Path], object]
REFUSED: list[tuple[Forgery, str]] = [
    (quick_timeout, "its verdict is test_timeout, but its tests took"),
    (not_applied, "its verdict is apply_failed, but its tests ran"),
    (as_an_earlier_kvci, "its doubt is None, but its test log gives 'a marker"),
    (fewer_attempts, "it counts 3 attempts, but its account has 1"),
    (partial(ended, exit=Exit.STEP_LIMIT, cls=Class.A4, answers=2), "give no end after 2 steps"),
    (partial(ended, exit=Exit.FORMAT_ERRORS, cls=Class.A5), "but its answers give submitted"),
    (partial(ended, exit=Exit.TIME_LIMIT, cls=Class.A4, answers=2), "s of 3600 s"),
    (partial(ended, exit=Exit.CONTEXT_OVERFLOW, cls=Class.A3, answers=1), "tokens of 4096"),
    (without_submit, "its exit is submitted, but its answers give no end"),
    (partial(other_limit, max_steps=3), "but its answers give step_limit after 3 steps"),
    (partial(other_limit, max_tokens=8), "its run allows 8 tokens for an answer"),
    (partial(invalid_without_log, logged=True), "test logs show that the gold patch resolves it"),
    (without_preflight, "the gold patch was not graded on its machine"),
    (on_other_host, "the gold patch was not graded on its machine 0123456789ab"),
]
NEED_A_PERSON: list[tuple[Forgery, str]] = [
    (without_end_marker, f"{GOOD}: no finished test log shows"),
    (timeout_after_the_tests, "the tests of 1 trials ended, as their logs show"),
    (ungraded, "the tests of 1 trials ended, as their logs show"),
    (without_account, f"{GOOD}: no file says how infrastructure ended"),
    (failed_by_their_server, "A12 server fails in this arm); without a person"),
    (redacted_loops, f"{GOOD}: redaction hides how often the actions of 1 trials repeat"),
    (invalid_without_log, "no finished test log shows that 1 instance may be dropped"),
]


def name_of(value: object) -> str:
    words = [getattr(value, "func", value), *getattr(value, "keywords", {}).values()]
    return "-".join(str(getattr(word, "__name__", word)) for word in words)[:60]


def test_pairs_are_not_dropped_by_another_block(forged: Path) -> None:
    """The trials of a pair have the same block, so another block takes a pair out of the claim."""
    for one in failing(forged):
        change(folder(forged, one), block=1)
    with pytest.raises(UserError, match="belongs to block 1, but its instance is planned for"):
        build(forged)


@pytest.mark.parametrize(("forge", "says"), REFUSED, ids=name_of)
def test_forgery_is_refused(forge: Forgery, says: str, forged: Path) -> None:
    forge(forged)
    found, _ = reviewed(forged)
    assert any(says in line for line in found.problems), found.problems


@pytest.mark.parametrize(("forge", "says"), NEED_A_PERSON, ids=name_of)
def test_forgery_needs_a_maintainer(forge: Forgery, says: str, forged: Path) -> None:
    forge(forged)
    found, _ = reviewed(forged)
    assert found.problems == ()
    assert any(says in line for line in found.unattested), found.unattested


def test_comment_counts_only_what_was_recomputed(forged: Path) -> None:
    invalid_without_log(forged)
    cut = len(of_baseline(forged))
    without_end_marker(forged)
    found, _ = reviewed(forged)
    recomputed, on_word = str(found.recomputed), str(found.on_word)
    assert "invalid" not in recomputed and "that 1 instance may be dropped as invalid" in on_word
    assert f"{10 - cut} of 10 verdicts" in recomputed
    assert f"{cut} verdicts without a finished test log" in on_word


def test_trials_of_another_machine_are_noted(forged: Path) -> None:
    manifest = RunDirectory(forged).manifest
    manifest.model_copy(update={"host": "0123456789ab"}).write(forged / "manifest.json")
    found, _ = reviewed(forged)
    assert "12 trials ran on the machine" in str(found.notes)


def later(text: str, **by: float) -> str:
    """Return a time that is later by so much."""
    return f"{datetime.fromisoformat(text) + timedelta(**by):%Y-%m-%dT%H:%M:%SZ}"


def test_impossible_times_are_a_problem(forged: Path) -> None:
    one = failing(forged)[0]
    to, start, end = folder(forged, one), one.start, one.end
    cases: list[tuple[dict[str, Any], str]] = [
        ({"end": later(start, hours=-1)}, "before it begins"),
        ({"start": later(start, hours=30), "end": later(end, hours=30)}, "in the future"),
        ({"start": later(start, days=-1), "end": later(end, days=-1)}, "before its run"),
        ({"solve_s": one.solve_s + 60}, "but lasts from"),
        ({"start": later(end, seconds=30), "end": later(end, seconds=60)}, "its answer 1 is not"),
    ]
    for fields, says in cases:
        change(to, **fields)
        assert says in str(reviewed(forged)[0].problems), says
        change(to, start=start, end=end, solve_s=one.solve_s)
    assert not reviewed(forged)[0].problems


def test_answers_without_a_time_are_a_problem(forged: Path) -> None:
    def drop_time(entries: list[dict[str, Any]]) -> None:
        del entries[1]["asked"]

    one = failing(forged)[0]
    chain(folder(forged, one), drop_time)
    assert "its answer 1 does not say when it was asked" in str(reviewed(forged)[0].problems)


def test_more_conversations_at_once_than_slots_are_a_problem(forged: Path) -> None:
    """The arms of a run use the machine one after another."""
    outcomes = RunDirectory(forged).outcomes()
    first, last = min(one.start for one in outcomes), max(one.end for one in outcomes)
    for one in outcomes:
        change(folder(forged, one, one.arm), start=first, end=later(last, seconds=10))
    found, _ = reviewed(forged)
    (wrong,) = found.problems
    assert "12 conversations at once" in wrong and "a server has 2 slots" in wrong


def test_run_of_another_year_is_a_problem(forged: Path) -> None:
    """A runner may move all times together, but GitHub knows when the workflow run ran."""
    ran, days = known(forged), -400

    def move(text: str) -> str:
        return later(text, days=days)

    def all_answers(entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            for name in {"asked", "answered"} & entry.keys():
                entry[name] += days * 86400

    for one in RunDirectory(forged).outcomes():
        to = folder(forged, one, one.arm)
        change(to, start=move(one.start), end=move(one.end))
        chain(to, all_answers)
    manifest = RunDirectory(forged).manifest
    manifest.model_copy(update={"start": move(manifest.start)}).write(forged / "manifest.json")
    found, _ = reviewed(forged, {int(WORKFLOW): ran}.get)
    wrong = [line for line in found.problems if "but the workflow run 77 from" in line]
    assert len(wrong) == len(found.problems) == 12


def respecify(run: Path, **fields: Any) -> None:
    """Change the specification after the run, and its hash in the manifest."""
    directory = RunDirectory(run)
    spec, manifest = directory.spec.model_copy(update=fields), directory.manifest
    planned = tuple(name for name in manifest.planned if name in (spec.instances or [name]))
    for one in directory.outcomes():
        if one.instance not in planned or one.arm not in [arm.id for arm in spec.arms]:
            shutil.rmtree(folder(run, one, one.arm))
    digest = spec.hash(manifest.model_sha256, manifest.dataset_sha256)
    changed = {"planned": planned, "spec_sha256": digest}
    manifest.model_copy(update=changed).write(run / "manifest.json")
    spec.write(run / "spec.json")


@pytest.mark.parametrize("field", ["margin", "alpha", "instances", "seeds", "arms", "nothing"])
def test_specification_changed_after_the_run_is_a_problem(field: str, forged: Path) -> None:
    spec, manifest = RunDirectory(forged).spec, RunDirectory(forged).manifest
    fields: dict[str, dict[str, Any]] = {
        "margin": {"margin": 0.9},
        "alpha": {"alpha": 0.4},
        "instances": {"instances": manifest.planned[:4]},
        "seeds": {"seeds": (0, 1), "temperature": 0.5},
        "arms": {"arms": spec.arms[:1]},
    }
    respecify(forged, **fields.get(field, {}))
    found, _ = reviewed(forged)
    wrong = [line for line in found.problems if "is not what the workflow run 77" in line]
    assert len(wrong) == (field != "nothing")


def test_unknown_workflow_runs_need_a_maintainer(forged: Path) -> None:
    cases: list[tuple[Lookup, str]] = [
        (lambda _: None, "the workflow run 77, which is not here"),
        (lambda _: known(forged, asked=frozenset()), "does not show what was asked"),
    ]
    for lookup, says in cases:
        found, _ = reviewed(forged, lookup)
        assert not found.problems and says in found.unattested[0]
    for one in RunDirectory(forged).outcomes():
        change(folder(forged, one, one.arm), workflow_run="")
    assert "12 of 12 trials name no workflow run" in reviewed(forged)[0].unattested[0]


def test_superseded_trial_is_not_held_against_the_answers_that_replaced_it(forged: Path) -> None:
    """Earlier, its times were compared with the conversation of the trial that counts."""
    one = failing(forged)[0]
    old = forged / "superseded" / "1" / one.arm / one.instance / str(one.seed)
    shutil.copytree(folder(forged, one), old)
    earlier = later(one.start, minutes=-3)
    change(old, start=earlier, end=earlier, solve_s=0.0)
    found, _ = reviewed(forged)
    assert not [line for line in found.problems if "between its start and its end" in line]
