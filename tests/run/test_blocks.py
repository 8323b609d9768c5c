"""Blocks that broke, instances whose gold patch fails, time budgets: the scheduler itself."""

import errno
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from rich.console import Console

from kvci.agent import loop
from kvci.errors import UserError
from kvci.files import write_atomic
from kvci.host import host
from kvci.plan import Block, Trial, blocks
from kvci.run.grader import Grader
from kvci.run.progress import Progress
from kvci.run.sandboxes import Sandboxes
from kvci.run.scheduler import Scheduler
from kvci.run.summary import summarize
from kvci.run.supplies import AllHere, Supplies
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import WAITS, Graded, Outcome, now
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
                Progress(Console(quiet=True), dict.fromkeys(ARMS, 2), 1),
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
def test_a_block_that_broke_is_run_again_for_all_arms_and_the_old_is_kept(
    tmp_path: Path, run: Callable[..., list[Outcome]], other: dict[str, str]
) -> None:
    fresh = {"host": host(), "start": now(), "end": now(), "server_build": ""}
    put(tmp_path, outcome(ARMS[0], FIRST, **(fresh | other), detail="old"))
    found = {(o.arm, o.instance): o for o in run(spec(tmp_path))}
    assert len(found) == 4 and "old" not in {o.detail for o in found.values()}
    kept = list((tmp_path / "run" / "superseded").glob(f"0/{ARMS[0]}/{FIRST}/0/outcome.json"))
    assert [Outcome.read(path).detail for path in kept] == ["old"]


def test_a_server_that_never_started_is_of_no_build(
    tmp_path: Path, run: Callable[..., list[Outcome]]
) -> None:
    """Another build's defect became the arm's own, beside what the next build did."""
    first, late = blocks(list(INSTANCES), spec(tmp_path))[0].arms
    fresh = {"host": host(), "start": now(), "end": now()}
    failed = {"exit": Exit.SERVER_FAILED, "verdict": Verdict.NOT_GRADED, "cls": Class.I2}
    put(tmp_path, outcome(first, FIRST, **fresh, **failed, server_build="", server_failures=3))
    found = {(o.arm, o.instance): o for o in run(spec(tmp_path))}
    assert {one.cls for one in found.values()} == {Class.OK} and found[late, FIRST]
    assert (tmp_path / "run" / "superseded" / "0" / first / FIRST / "0").exists()


def test_what_another_machine_never_graded_is_run_again(
    tmp_path: Path, run: Callable[..., list[Outcome]]
) -> None:
    """It may not come back; what it tried to grade, and could not, stays its own."""
    lost = {"host": "another", "verdict": Verdict.GRADING_FAILED, "cls": Class.I3}
    for name, detail in ((FIRST, WAITS), (SECOND, "gone")):
        put(tmp_path, outcome(ARMS[0], name, **lost, detail=detail))
        put(tmp_path, outcome(ARMS[1], name, host="another"))
    found = run(spec(tmp_path))
    here = {one.instance for one in found if one.host == host() and one.cls is Class.OK}
    assert here == {FIRST} and {o.host for o in found if o.instance == SECOND} == {"another"}
    assert len(list((tmp_path / "run" / "superseded" / "0").glob("*/*/*/outcome.json"))) == 2


def test_a_conversation_that_ended_is_not_held_again(
    tmp_path: Path, run: Callable[..., list[Outcome]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ended kvci while its patch waited to be graded lost it."""

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


def test_what_waits_to_be_graded_again_stays_with_its_machine(
    tmp_path: Path, run: Callable[..., list[Outcome]]
) -> None:
    """A block that broke is put aside, and none of it comes back; a whole one is left alone."""
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


def test_a_block_in_one_piece_goes_on(tmp_path: Path, run: Callable[..., list[Outcome]]) -> None:
    fresh = {"host": host(), "start": now(), "end": now(), "server_build": ""}
    put(tmp_path, outcome(ARMS[0], FIRST, **fresh, detail="kept"))
    for arm in ARMS:  # complete, so its age does not matter
        put(tmp_path, outcome(arm, SECOND, host="another", detail="kept"))
    found = run(spec(tmp_path))
    assert sorted(o.detail for o in found) == ["", "kept", "kept", "kept"]
    assert not (tmp_path / "run" / "superseded").exists()


def test_an_instance_whose_gold_patch_fails_is_dropped_for_all_arms_before_any_trial(
    tmp_path: Path, run: Callable[..., list[Outcome]]
) -> None:
    good = INSTANCES[FIRST]
    bad = replace(good, row=good.row.model_copy(update={"patch": INSTANCES[SECOND].row.patch}))
    found = run(spec(tmp_path), {FIRST: bad, SECOND: INSTANCES[SECOND]})
    classes = {(o.arm, o.instance): (o.cls, o.exit) for o in found}
    assert {classes[arm, FIRST] for arm in ARMS} == {(Class.I0, Exit.NOT_STARTED)}
    assert {classes[arm, SECOND] for arm in ARMS} == {(Class.OK, Exit.SUBMITTED)}


def test_near_the_time_budget_no_new_block_begins(
    tmp_path: Path, run: Callable[..., list[Outcome]]
) -> None:
    found = run(spec(tmp_path, time_budget_s=0.1))
    assert {o.instance for o in found} == {FIRST} and len(found) == 2
    assert len(run(spec(tmp_path))) == 4


def test_a_night_that_ended_in_time_is_no_failure_and_one_that_did_nothing_is() -> None:
    some = [outcome(arm, FIRST) for arm in ARMS]
    unfinished = summarize("r", dict.fromkeys(ARMS, 2), some)
    assert not unfinished.happened
    assert unfinished.model_copy(update={"late": True}).happened
    nothing = summarize("r", dict.fromkeys(ARMS, 2), [])
    assert not nothing.model_copy(update={"late": True}).happened
    broken = [*some[:1], outcome(ARMS[1], FIRST, verdict=Verdict.GRADING_FAILED, cls=Class.I3)]
    infra = summarize("r", dict.fromkeys(ARMS, 2), broken)
    assert not infra.model_copy(update={"late": True}).happened


def test_superseded_trials_are_numbered(tmp_path: Path) -> None:
    trial = Trial(ARMS[0], FIRST, 0)
    with RunDirectory(tmp_path / "run") as directory:
        for _ in range(2):
            put(tmp_path, outcome(ARMS[0], FIRST))
            directory.supersede([trial])
        assert not directory.done(trial)
        assert len(list((tmp_path / "run" / "superseded").glob("*/*/*/0/outcome.json"))) == 2


def test_a_budget_that_is_over_while_images_are_pulled_is_late(tmp_path: Path) -> None:
    """The wave that never came was taken for a failure, not for the night's end."""

    class Pulls(AllHere):
        def waves(self, blocks: list[Block]) -> Iterator[list[Block]]:
            yield blocks[:1]

        def stopped(self) -> str:
            return "the time budget is over"

    asked = spec(tmp_path, time_budget_s=1000.0)
    with RunDirectory(tmp_path / "run") as directory:
        sandboxes = Sandboxes("bwrap", directory.scratch, Caps())
        progress = Progress(Console(quiet=True), dict.fromkeys(ARMS, 2), 1)
        words = (asked, Path("none"), INSTANCES, directory, sandboxes, progress, Pulls())
        scheduler = Scheduler(*words)
        scheduler.run(blocks([FIRST, SECOND], asked))
        assert scheduler.late and len(directory.outcomes()) == 2


def test_a_full_disk_of_the_run_folder_leaves_the_trial_for_the_next_time(
    run: Callable[..., list[Outcome]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was a fault of kvci's for ever."""
    written = loop._append

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(loop, "_append", full)
    with pytest.raises(UserError, match=r"The disk of .* is full; free some space"):
        run(spec(tmp_path))
    assert not RunDirectory(tmp_path / "run").outcomes()
    monkeypatch.setattr(loop, "_append", written)
    scratch = RunDirectory(tmp_path / "run").scratch
    while scratch.exists():  # the grading of its gold patch ends with the process, which goes on
        shutil.rmtree(scratch, ignore_errors=True)
    assert {one.cls for one in run(spec(tmp_path))} == {Class.OK}


class Waves(AllHere):
    """One wave each time, and an image that is absent the first time, if that is asked for."""

    def __init__(self, lacking: str = "") -> None:
        self.asked, self.held, self._lacking = 0, False, lacking

    def waves(self, blocks: list[Block]) -> Iterator[list[Block]]:
        self.asked += 1
        self.held = True
        yield blocks
        self.held = False

    def absent(self, instance: str) -> str:
        return "nowhere" if instance == self._lacking and self.asked < 2 else ""


def done(result: Graded) -> Future[Graded]:
    future: Future[Graded] = Future()
    future.set_result(result)
    return future


UNKNOWN = Graded(verdict=Verdict.GRADING_FAILED, detail="Docker has no image")


def test_what_is_let_go_after_its_wave_was_not_removed_by_hand(
    tmp_path: Path, run: Callable[..., list[Outcome]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial whose grading failed had its image, and all the others', pulled twice more."""
    supply = Waves()

    def failing(_: Grader, *asked: Any) -> Future[Graded]:
        asked[3](UNKNOWN)
        return done(UNKNOWN)

    monkeypatch.setattr(Grader, "submit", failing)
    monkeypatch.setattr(Sandboxes, "lacks", lambda *_: not supply.held)
    assert {one.cls for one in run(spec(tmp_path), supply=supply)} == {Class.I3}
    assert supply.asked == 1


@pytest.mark.parametrize("lacking", [FIRST, ""], ids=["absent at first", "back again"])
def test_a_gold_patch_that_was_not_asked_for_is_no_invalid_instance(
    lacking: str,
    tmp_path: Path,
    run: Callable[..., list[Outcome]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its image was nowhere, or gone, when it was to be graded, and had come when that was read."""
    asks, asked = Grader.preflight, list[str]()

    def preflight(self: Grader, instance: Instance, folder: Path) -> Future[Graded]:
        asked.append(name := instance.row.instance_id)
        missing = name == FIRST and asked.count(name) == 1
        return done(UNKNOWN) if missing else asks(self, instance, folder)

    monkeypatch.setattr(Grader, "preflight", preflight)
    found = run(spec(tmp_path, preflight_first=True), supply=Waves(lacking))
    assert {one.cls for one in found} == {Class.OK} and asked.count(FIRST) == 2


def test_an_engine_that_does_not_answer_says_nothing_of_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it raised made the trial a fault of kvci's, for good."""

    def silent(_: str) -> bool:
        raise requests.ReadTimeout("no answer")

    monkeypatch.setattr("kvci.docker.engine.has", silent)
    assert not Sandboxes("docker", tmp_path, Caps()).lacks(INSTANCES[FIRST])
