"""Test the scheduler: unpairable blocks, failing gold patches, time budgets, resuming."""

import errno
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from kvci.chain import Chain
from kvci.console import Terminal
from kvci.errors import UserError
from kvci.files import write_atomic
from kvci.host import host
from kvci.plan import Block, Trial, blocks
from kvci.review.excluded import account_problems, without_account
from kvci.run.attempt import grade_with_retries
from kvci.run.grader import Grader
from kvci.run.progress import Progress
from kvci.run.sandboxes import Sandboxes
from kvci.run.scheduler import Scheduler
from kvci.run.summary import summarize
from kvci.run.supplies import NothingToFetch, Supplies
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import ATTEMPTS, UNGRADED, WAITS, Attempts, Graded, Outcome, now
from kvci.sandbox import Caps
from kvci.serve.replay import Script
from kvci.spec import Spec
from kvci.tasks.calibration import suite
from kvci.tasks.instance import Instance
from kvci.tasks.script import behave
from kvci.taxonomy import Class, Exit, Verdict
from tests.run.made import outcome

INSTANCES = {i.row.instance_id: i for i in suite("calibration:functions=3,count=2")}
FIRST, SECOND = INSTANCES
ARMS = ("f16-f16", "q8_0-q8_0")


def spec(tmp_path: Path, **other: object) -> Spec:
    script = tmp_path / "script.json"
    gold = {name: behave(instance, "gold") for name, instance in INSTANCES.items()}
    Script(answers=gold).write(script)
    asked: dict[str, object] = {
        "model": {"name": "none", "path": "none"},
        "arms": ["f16/f16", "q8_0/q8_0"],
        "dataset": "calibration",
        "engine": f"replay:{script}",
        "test_s": 5.0,
        "block_size": 1,
    }
    return Spec.model_validate(asked | other)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., list[Outcome]]:
    def go(
        asked: Spec,
        instances: dict[str, Instance] | None = None,
        supply: Supplies | None = None,
    ) -> list[Outcome]:
        known = instances or INSTANCES
        with RunDirectory(tmp_path / "run") as directory:
            sandboxes = Sandboxes("bwrap", directory.scratch, Caps())
            scheduler = Scheduler(
                asked,
                Path("none"),
                known,
                directory,
                sandboxes,
                Progress(Terminal(quiet=True), dict.fromkeys(ARMS, 2), 1),
                supply,
            )
            scheduler.run(blocks(list(known), asked))
            return directory.outcomes()

    return go


def put(path: Path, found: Outcome) -> None:
    place = path / "run" / "trials" / found.arm / found.instance / "0" / "outcome.json"
    write_atomic(place, found.model_dump_json())


@pytest.mark.parametrize(
    "other",
    [{"host": "another"}, {"start": "2026-01-01T00:00:00Z"}],
    ids=["another host", "an older day"],
)
def test_unpairable_block_reruns_all_arms_and_keeps_old(
    tmp_path: Path, run: Callable[..., list[Outcome]], other: dict[str, str]
) -> None:
    fresh = {"host": host(), "start": now(), "end": now(), "server_build": ""}
    put(tmp_path, outcome(ARMS[0], FIRST, **(fresh | other), detail="old"))
    found = {(o.arm, o.instance): o for o in run(spec(tmp_path))}
    assert len(found) == 4 and "old" not in {o.detail for o in found.values()}
    kept = list((tmp_path / "run" / "superseded").glob(f"0/{ARMS[0]}/{FIRST}/0/outcome.json"))
    assert [Outcome.read(path).detail for path in kept] == ["old"]


def test_trials_of_never_started_server_are_rerun(
    tmp_path: Path, run: Callable[..., list[Outcome]]
) -> None:
    """In an earlier version, a failure of another build counted against the arm."""
    first, late = blocks(list(INSTANCES), spec(tmp_path))[0].arms
    fresh = {"host": host(), "start": now(), "end": now()}
    failed = {"exit": Exit.SERVER_FAILED, "verdict": Verdict.NOT_GRADED, "cls": Class.I2}
    put(tmp_path, outcome(first, FIRST, **fresh, **failed, server_build="", server_failures=3))
    found = {(o.arm, o.instance): o for o in run(spec(tmp_path))}
    assert {one.cls for one in found.values()} == {Class.OK} and found[late, FIRST]
    assert (tmp_path / "run" / "superseded" / "0" / first / FIRST / "0").exists()


def test_trial_ungraded_on_another_machine_is_rerun(
    tmp_path: Path, run: Callable[..., list[Outcome]]
) -> None:
    """The other machine may not come back. A grading that failed there is not repeated here."""
    lost = {"host": "another", "verdict": Verdict.GRADING_FAILED, "cls": Class.I3}
    for name, detail in ((FIRST, WAITS), (SECOND, "gone")):
        put(tmp_path, outcome(ARMS[0], name, **lost, detail=detail))
        put(tmp_path, outcome(ARMS[1], name, host="another"))
    found = run(spec(tmp_path))
    here = {one.instance for one in found if one.host == host() and one.cls is Class.OK}
    assert here == {FIRST} and {o.host for o in found if o.instance == SECOND} == {"another"}
    assert len(list((tmp_path / "run" / "superseded" / "0").glob("*/*/*/outcome.json"))) == 2


def test_resume_grades_ended_conversation_without_repeating_it(
    tmp_path: Path, run: Callable[..., list[Outcome]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an earlier version, a stop before the grading lost the conversation."""

    def stopped(*_: object) -> Future[Graded]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Grader, "submit", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(spec(tmp_path))
    (before,) = RunDirectory(tmp_path / "run").outcomes()
    assert (before.cls, before.detail) == (Class.I3, WAITS)
    found = {(o.arm, o.instance): o for o in run(spec(tmp_path))}
    assert {one.cls for one in found.values()} == {Class.OK} and len(found) == 4
    after = found[before.arm, before.instance]
    assert (after.start, after.end) == (before.start, before.end)
    assert not (tmp_path / "run" / "superseded").exists()


def test_failed_grading_is_repeated_only_on_its_machine(
    tmp_path: Path, run: Callable[..., list[Outcome]]
) -> None:
    """A block that cannot be paired stays superseded; a complete block of another machine stays."""
    lost = {"cls": Class.I3, "verdict": Verdict.GRADING_FAILED, "host": "another", "detail": "old"}
    lost |= {"start": now(), "end": now(), "server_build": ""}
    late = blocks(list(INSTANCES), spec(tmp_path))[0].arms[1]
    put(tmp_path, outcome(late, FIRST, **lost))
    for arm in ARMS:
        put(tmp_path, outcome(arm, SECOND, **lost))
    for path in (tmp_path / "run" / "trials").rglob("outcome.json"):
        write_atomic(path.with_name("patch.diff"), INSTANCES[FIRST].row.patch)
        write_atomic(path.with_name("trajectory.jsonl"), "")
    found = {(o.arm, o.instance): o for o in run(spec(tmp_path))}
    assert {(o.host, o.cls) for o in found.values() if o.instance == FIRST} == {(host(), Class.OK)}
    assert {(o.host, o.detail) for o in found.values() if o.instance == SECOND} == {
        ("another", "old")
    }
    assert (tmp_path / "run" / "superseded" / "0" / late / FIRST / "0" / "patch.diff").exists()
    assert (tmp_path / "run" / "trials" / late / FIRST / "0" / "trajectory.jsonl").exists()


def test_resume_keeps_pairable_trials(tmp_path: Path, run: Callable[..., list[Outcome]]) -> None:
    fresh = {"host": host(), "start": now(), "end": now(), "server_build": ""}
    put(tmp_path, outcome(ARMS[0], FIRST, **fresh, detail="kept"))
    for arm in ARMS:  # the block is complete, so its age does not matter
        put(tmp_path, outcome(arm, SECOND, host="another", detail="kept"))
    found = run(spec(tmp_path))
    assert sorted(o.detail for o in found) == ["", "kept", "kept", "kept"]
    assert not (tmp_path / "run" / "superseded").exists()


def test_failing_gold_patch_drops_instance_for_all_arms(
    tmp_path: Path, run: Callable[..., list[Outcome]]
) -> None:
    good = INSTANCES[FIRST]
    bad = replace(good, row=good.row.model_copy(update={"patch": INSTANCES[SECOND].row.patch}))
    found = run(spec(tmp_path), {FIRST: bad, SECOND: INSTANCES[SECOND]})
    classes = {(o.arm, o.instance): (o.cls, o.exit) for o in found}
    assert {classes[arm, FIRST] for arm in ARMS} == {(Class.I0, Exit.NOT_STARTED)}
    assert {classes[arm, SECOND] for arm in ARMS} == {(Class.OK, Exit.SUBMITTED)}


def test_no_block_starts_near_the_time_budget(
    tmp_path: Path, run: Callable[..., list[Outcome]]
) -> None:
    found = run(spec(tmp_path, time_budget_s=0.1))
    assert {o.instance for o in found} == {FIRST} and len(found) == 2
    assert len(run(spec(tmp_path))) == 4


def test_late_run_succeeds_unless_it_did_nothing() -> None:
    outcomes = [outcome(arm, FIRST) for arm in ARMS]
    unfinished = summarize("r", dict.fromkeys(ARMS, 2), outcomes)
    assert not unfinished.succeeded
    assert unfinished.model_copy(update={"late": True}).succeeded
    nothing = summarize("r", dict.fromkeys(ARMS, 2), [])
    assert not nothing.model_copy(update={"late": True}).succeeded
    broken = [*outcomes[:1], outcome(ARMS[1], FIRST, verdict=Verdict.GRADING_FAILED, cls=Class.I3)]
    infra = summarize("r", dict.fromkeys(ARMS, 2), broken)
    assert not infra.model_copy(update={"late": True}).succeeded


def test_superseded_trials_are_numbered(tmp_path: Path) -> None:
    trial = Trial(ARMS[0], FIRST, 0)
    with RunDirectory(tmp_path / "run") as directory:
        for _ in range(2):
            put(tmp_path, outcome(ARMS[0], FIRST))
            directory.supersede([trial])
        assert not directory.done(trial)
        assert len(list((tmp_path / "run" / "superseded").glob("*/*/*/0/outcome.json"))) == 2


def test_time_budget_can_end_during_pulls(tmp_path: Path) -> None:
    """In an earlier version, blocks without images counted as a failure of the run."""

    class Pulls(NothingToFetch):
        def waves(self, blocks: list[Block]) -> Iterator[list[Block]]:
            yield blocks[:1]

        def stopped(self) -> str:
            return "the time budget is over"

    asked = spec(tmp_path, time_budget_s=1000.0)
    with RunDirectory(tmp_path / "run") as directory:
        sandboxes = Sandboxes("bwrap", directory.scratch, Caps())
        progress = Progress(Terminal(quiet=True), dict.fromkeys(ARMS, 2), 1)
        arguments = (asked, Path("none"), INSTANCES, directory, sandboxes, progress, Pulls())
        scheduler = Scheduler(*arguments)
        scheduler.run(blocks([FIRST, SECOND], asked))
        assert scheduler.out_of_time and len(directory.outcomes()) == 2


def test_full_disk_leaves_trial_for_resume(
    run: Callable[..., list[Outcome]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an earlier version, the trial kept class I4."""
    written = Chain.append

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Chain, "append", full)
    with pytest.raises(UserError, match=r"The disk of .* is full; free some space"):
        run(spec(tmp_path))
    assert not RunDirectory(tmp_path / "run").outcomes()
    monkeypatch.setattr(Chain, "append", written)
    scratch = RunDirectory(tmp_path / "run").scratch
    while scratch.exists():  # the gold patch's grading may still write there
        shutil.rmtree(scratch, ignore_errors=True)
    assert {one.cls for one in run(spec(tmp_path))} == {Class.OK}


class Waves(NothingToFetch):
    """A supply with one wave for each call. In the first wave, the image of `lacking` is absent."""

    def __init__(self, lacking: str = "") -> None:
        self.asked, self.wave_out, self._lacking = 0, False, lacking

    def waves(self, blocks: list[Block]) -> Iterator[list[Block]]:
        self.asked += 1
        self.wave_out = True
        yield blocks
        self.wave_out = False

    def absent(self, instance: str) -> str:
        return "nowhere" if instance == self._lacking and self.asked < 2 else ""


def done(result: Graded) -> Future[Graded]:
    future: Future[Graded] = Future()
    future.set_result(result)
    return future


UNKNOWN = Graded(verdict=Verdict.GRADING_FAILED, detail="Docker has no image")


def test_evicted_image_is_not_taken_for_removed(
    tmp_path: Path, run: Callable[..., list[Outcome]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an earlier version, kvci pulled all images twice more after a failed grading."""
    supply = Waves()

    def failing(_: Grader, *asked: Any) -> Future[Graded]:
        asked[3](UNKNOWN)
        return done(UNKNOWN)

    monkeypatch.setattr(Grader, "submit", failing)
    monkeypatch.setattr(Sandboxes, "lacks", lambda *_: not supply.wave_out)
    assert {one.cls for one in run(spec(tmp_path), supply=supply)} == {Class.I3}
    assert supply.asked == 1


@pytest.mark.parametrize("lacking", [FIRST, ""], ids=["absent at first", "back again"])
def test_missing_image_does_not_make_instance_invalid(
    lacking: str,
    tmp_path: Path,
    run: Callable[..., list[Outcome]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the first grading, the image was absent or removed. Afterwards it was available."""
    asks, asked = Grader.preflight, list[str]()

    def preflight(self: Grader, instance: Instance, folder: Path) -> Future[Graded]:
        asked.append(name := instance.row.instance_id)
        missing = name == FIRST and asked.count(name) == 1
        return done(UNKNOWN) if missing else asks(self, instance, folder)

    monkeypatch.setattr(Grader, "preflight", preflight)
    found = run(spec(tmp_path, preflight_first=True), supply=Waves(lacking))
    assert {one.cls for one in found} == {Class.OK} and asked.count(FIRST) == 2


def test_silent_engine_does_not_mean_missing_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an earlier version, the exception of the Docker engine gave the trial class I4."""

    def silent(_: str) -> bool:
        raise requests.ReadTimeout("no answer")

    monkeypatch.setattr("kvci.docker.engine.has", silent)
    assert not Sandboxes("docker", tmp_path, Caps()).lacks(INSTANCES[FIRST])


def test_each_attempt_of_an_excluded_trial_has_an_account(
    tmp_path: Path, run: Callable[..., list[Outcome]]
) -> None:
    asked, script = spec(tmp_path), tmp_path / "dies.json"
    dies = {name: behave(instance, "server_dies") for name, instance in INSTANCES.items()}
    Script(answers=dies | {FIRST: behave(INSTANCES[FIRST], "gold")}).write(script)
    found = run(asked.model_copy(update={"engine": f"replay:{script}"}))
    directory = RunDirectory(tmp_path / "run")
    excluded = [one for one in found if one.cls is Class.I2]
    assert {one.instance for one in excluded} == {SECOND}
    for one in excluded:
        attempts = Attempts.read(directory.trial(one.trial) / ATTEMPTS).attempts
        assert [each.ended for each in attempts] == [Exit.SERVER_FAILED] * 3
        assert attempts[-1].detail == one.detail and attempts[-1].server == one.server
        assert not any(each.server_answers for each in attempts) and attempts[0].free_bytes
    assert not [*account_problems(directory), *without_account([directory])]


def test_each_failed_grading_has_an_account(tmp_path: Path) -> None:
    row = INSTANCES[FIRST].row.model_copy(update={"log_parser": "none_such"})
    broken = Instance(row, INSTANCES[FIRST].files)
    sandboxes = Sandboxes("bwrap", tmp_path, Caps())
    patch = row.patch.encode()
    graded = grade_with_retries(sandboxes, broken, patch, tmp_path / "grade", 20.0, False)
    attempts = Attempts.read(tmp_path / "grade" / ATTEMPTS).attempts
    assert {each.ended for each in attempts} == {graded.verdict} <= UNGRADED
    assert attempts[-1].detail == graded.detail and "none_such" in graded.detail
