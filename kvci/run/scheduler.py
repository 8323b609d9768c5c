"""Blocks -> arms in the block's order -> one server -> as many conversations as slots."""

import itertools
import json
import shutil
import threading
import time
import traceback
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import httpx

from kvci.agent.client import Client
from kvci.agent.loop import Conversation, Place, converse
from kvci.errors import UserError
from kvci.files import disk_full_error, is_disk_full, sha256_of, write_atomic
from kvci.host import host
from kvci.plan import Block, Trial
from kvci.run.attempt import unknown
from kvci.run.grader import Grader
from kvci.run.progress import Progress
from kvci.run.regrade import again
from kvci.run.sandboxes import Sandboxes
from kvci.run.supplies import AllHere, Supplies
from kvci.rundir.directory import RunDirectory, resolved
from kvci.rundir.documents import WAITS, Ceiling, Graded, Outcome, now
from kvci.sandbox import SandboxFailed
from kvci.serve.remote import Remote
from kvci.serve.server import NotProven, Server, ServerFailed
from kvci.spec import Arm, Spec
from kvci.tasks.instance import Instance
from kvci.tasks.row import patched_files
from kvci.taxonomy import (
    ATTEMPTS_MAX,
    GENERATED_AGAIN,
    LAST_ACTIONS,
    Exit,
    Observed,
    Verdict,
    classify,
)
from kvci.threads import background

BLOCK_MAX = timedelta(hours=24)


@dataclass(frozen=True)
class Ran:
    """Under what a trial ran: the server's build, and the name of its log."""

    build: str = ""
    server: str = ""


class OtherBuild(Exception):
    """The server is of another build than the trials that the block already has."""


class Scheduler:
    """Runs what is not done yet. `progress` hears what happens."""

    def __init__(
        self,
        spec: Spec,
        model: Path,
        instances: dict[str, Instance],
        directory: RunDirectory,
        sandboxes: Sandboxes,
        progress: Progress,
        supply: Supplies | None = None,
    ) -> None:
        self._spec, self._model, self._instances = spec, model, instances
        self._directory, self._sandboxes, self._progress = directory, sandboxes, progress
        self._host = host()
        self._arms = {arm.id: arm for arm in spec.arms}
        self._grader = Grader(sandboxes, spec.test_s)
        self._graded: list[Future[Graded]] = []
        self._preflights: dict[str, Future[Graded]] = {}
        self._gold: dict[str, Graded] = {}
        self._attempts: dict[Trial, int] = {}
        self._server_failures: dict[Trial, int] = {}
        self._unasked: set[str] = set()
        """Instances without an image when their gold patch was to be graded."""
        self._lost: set[str] = set()
        """Instances whose images somebody removed while they were needed."""
        self._stop = threading.Event()
        self._supply = supply or AllHere()
        self._longest_s = 0.0
        self.late = False
        """The time budget ended the run."""

    def run(self, blocks: list[Block]) -> None:
        """Raises UserError if a server does not prove what was asked, or a block takes a day.

        Near the time budget no new block begins.
        """
        started = time.monotonic()
        self._put_aside_unproved()
        todo = [block for block in blocks if not self._complete(block)]
        try:
            in_time = not self._spec.preflight_first or self._validate(blocks, started)
            for _ in range(ATTEMPTS_MAX):
                self._lost.clear()
                for wave in self._supply.waves(todo) if in_time else ():
                    in_time = self._wave(wave, started)
                    for future in self._graded:
                        future.result()
                    self._note_lost_in_grading(wave)
                    if not in_time:
                        break
                todo = [block for block in todo if not self._complete(block)]
                if not in_time or not self._lost:
                    break
            cut = self._supply.stopped() and not all(map(self._complete, todo))
            self.late = not in_time or bool(cut)
        except BaseException:
            self._stop.set()
            self._grader.close(wait=False)
            raise
        for future in self._preflights.values():
            future.cancel()
        self._grader.close(wait=True)

    def _validate(self, blocks: list[Block], started: float) -> bool:
        """Every preflight before the first server starts; what is left is the ceiling.

        False if the time budget ended it.
        """
        names = [name for block in blocks for name in block.instances]
        for name in names:
            if (known := self._directory.preflight(name) / "graded.json").exists():
                self._gold[name] = Graded.read(known)
        lacking = [block for block in blocks if not self._gold.keys() >= set(block.instances)]
        for wave in self._supply.waves(lacking) if lacking else ():
            for block in wave:
                self._preflight(block)
            for block in wave:
                if self._late(started):
                    return False
                self._preflighted(block)
        if self._supply.stopped() and not self._gold.keys() >= set(names):
            return False
        asked, names = len(names), [name for name in names if name in self._gold]
        gold = {name: self._gold[name] for name in names}
        invalid = {
            name: " ".join(one.detail.split())[-300:]
            or f"the gold patch's verdict is {one.verdict}"
            for name, one in gold.items()
            if self._invalid(name)
        }
        resolved = [name for name, one in gold.items() if one.verdict is Verdict.RESOLVED]
        ceiling = Ceiling(asked=asked, valid=tuple(resolved), invalid=invalid)
        ceiling.write(self._directory.path / "ceiling.json")
        self._progress.say(ceiling.line())
        return True

    def _late(self, started: float, ahead_s: float = 0.0) -> bool:
        """What takes so long would go beyond the time budget."""
        budget_s = self._spec.time_budget_s
        return budget_s is not None and time.monotonic() - started + ahead_s > budget_s

    def _wave(self, wave: list[Block], started: float) -> bool:
        """Blocks whose images are here; False if the time budget ended it."""
        for block, following in itertools.zip_longest(wave, wave[1:]):
            if self._late(started, self._longest_s):
                return False
            began = time.monotonic()
            self._preflight(block)
            if following:
                self._preflight(following)
            self._block(block)
            self._longest_s = max(self._longest_s, time.monotonic() - began)
        return True

    def _put_aside_unproved(self) -> None:
        """The third judgement, of whole logs: what ran under one that fails it never counts."""
        problems = self._directory.judge(self._spec)
        trials = [
            Trial(outcome.arm, outcome.instance, outcome.seed)
            for outcome in self._directory.outcomes()
            if outcome.server in problems
        ]
        if trials:
            self._directory.supersede(trials)

    def _trials(self, block: Block) -> list[Trial]:
        return [trial for arm in block.arms for trial in block.trials(arm)]

    def _complete(self, block: Block) -> bool:
        """Every trial has its outcome, and none waits to be graded again on this machine, or was
        never graded on another, which may not come back."""
        there = self._there(block)
        waits = any(one.waits or (one.ungraded and one.host == self._host) for one in there)
        return len(there) == len(self._trials(block)) and not waits

    def _left(self, block: Block) -> bool:
        """Another machine ended before it graded all that the block has."""
        return any(one.waits and one.host != self._host for one in self._there(block))

    def _preflight(self, block: Block) -> None:
        """Have the gold patches of a block graded, beside whatever else goes on."""
        for name in block.instances:
            folder = self._directory.preflight(name)
            if name in self._unasked and not self._supply.absent(name):
                self._unasked.remove(name)
                self._gold.pop(name, None)
            if name in self._gold or name in self._preflights:
                continue
            if (folder / "graded.json").exists():
                self._gold[name] = Graded.read(folder / "graded.json")
            else:
                self._preflights[name] = self._grader.preflight(self._instances[name], folder)

    def _preflighted(self, block: Block) -> None:
        for name in block.instances:
            if future := self._preflights.pop(name, None):
                graded, folder = future.result(), self._directory.preflight(name)
                if unknown(graded) and not self._supply.absent(name):
                    if self._is_lost(name):
                        continue
                    # Its image may have been gone for a while; what is known now counts.
                    graded = self._grader.preflight(self._instances[name], folder).result()
                self._gold[name] = graded
                if unknown(graded) and self._supply.absent(name):
                    self._unasked.add(name)  # it may come another time
                else:
                    graded.write(folder / "graded.json")

    def _is_lost(self, name: str) -> bool:
        """Its image was here and is gone: what it was needed for is undone, and it is fetched
        again when all other blocks have run."""
        instance = self._instances[name]
        if self._supply.absent(name) or not self._sandboxes.lacks(instance):
            return False
        if name not in self._lost:
            self._lost.add(name)
            self._progress.say(f"{instance.row.image} was removed while it was needed")
        return True

    def _block(self, block: Block) -> None:
        """All arms of a block; what is left of a block that broke is put aside first."""
        self._preflighted(block)
        done = all(self._directory.done(trial) for trial in self._trials(block))
        if done and not self._left(block):
            self._grade_again(block)
            return
        if unserved := self._unserved(block):
            self._directory.supersede(unserved)
        # Before anything is graded again, which would write a trial that was put aside anew.
        if self._broken(block, ""):
            self._directory.supersede(self._trials(block))
        self._grade_again(block)
        for _ in range(ATTEMPTS_MAX):
            try:
                for arm in block.arms:
                    if self._old(block):
                        raise UserError(
                            f"Block {block.number} takes longer than a day; give a smaller "
                            "block_size and another --run-id."
                        )
                    self._arm(block, self._arms[arm])
                return
            except OtherBuild:
                for future in self._graded:
                    future.result()
                self._directory.supersede(self._trials(block))
        raise UserError("The server changes its build from one start to the next; hold it still.")

    def _note_lost_in_grading(self, wave: list[Block]) -> None:
        """While its images are held: what makes room for the next wave was not removed by hand."""
        for one in [one for block in wave for one in self._there(block)]:
            if one.ungraded and one.host == self._host:
                self._is_lost(one.instance)

    def _grade_again(self, block: Block) -> None:
        """What infrastructure kept from being graded is graded from its stored patch, on the
        machine that its pair has."""
        for outcome in (one for one in self._there(block) if one.host == self._host):
            if not outcome.ungraded or outcome.instance in self._lost:
                continue
            gold = resolved(self._gold[outcome.instance])
            instance, prompt = self._instances[outcome.instance], self._spec.prompt
            self._graded.append(
                again(outcome, self._directory, instance, self._grader, prompt, gold, _heard)
            )

    def _there(self, block: Block) -> list[Outcome]:
        found = [self._directory.outcome(trial) for trial in self._trials(block)]
        return [outcome for outcome in found if outcome]

    def _unserved(self, block: Block) -> list[Trial]:
        """Of a block that goes on, trials whose server never started: of which build it was nobody
        knows, and another one may start."""
        return [
            Trial(one.arm, one.instance, one.seed)
            for one in self._there(block)
            if one.exit is Exit.SERVER_FAILED and not one.server_build
        ]

    def _old(self, block: Block) -> bool:
        starts = [datetime.fromisoformat(outcome.start) for outcome in self._there(block)]
        return bool(starts) and datetime.fromisoformat(now()) - min(starts) > BLOCK_MAX

    def _broken(self, block: Block, build: str) -> bool:
        """What the block has cannot be paired with what would come now."""
        there = self._there(block)
        builds = {outcome.server_build for outcome in there} | {build}
        foreign = any(outcome.host != self._host for outcome in there)
        return foreign or len(builds - {""}) > 1 or self._old(block)

    def _invalid(self, name: str) -> bool:
        """Its gold patch does not resolve here, or could not be graded at all. One whose image is
        nowhere says nothing of that."""
        return not self._supply.absent(name) and self._gold[name].verdict is not Verdict.RESOLVED

    def _arm(self, block: Block, arm: Arm) -> None:
        """All trials of one arm in one block; infrastructure failures are tried again, twice.

        What is tried again runs alone, so that one trial that ends the server takes no other
        with it more than once.
        """
        pending = [t for t in block.trials(arm.id) if not self._directory.done(t)]
        pending = [t for t in pending if t.instance not in self._lost]
        for trial in [t for t in pending if self._invalid(t.instance)]:
            never = Conversation(exit=Exit.NOT_STARTED)
            self._write(block, trial, never, Ran(), now(), now(), 0, self._gold[trial.instance])
        pending = [t for t in pending if not self._invalid(t.instance)]
        for trial in [t for t in pending if self._supply.absent(t.instance)]:
            why = self._supply.absent(trial.instance)
            never = Conversation(exit=Exit.SANDBOX_FAILED, detail=why)
            ungraded = Graded(verdict=Verdict.NOT_GRADED)
            self._write(block, trial, never, Ran(), now(), now(), 0, ungraded)
        pending = [t for t in pending if not self._supply.absent(t.instance)]
        workers = self._spec.slots
        while pending:
            log, scratch = self._directory.server_log(arm.id), self._directory.scratch
            attempts = sum(self._attempts.values())
            try:
                with self._server(arm, log, scratch) as server:
                    effective = server.effective
                    effective.write(log.with_suffix(".json"))
                    build = effective.build or ""
                    if self._broken(block, build):
                        raise OtherBuild
                    pending = self._serve(block, pending, server, Ran(build, log.stem), workers)
                if self._spec.verified:
                    server.prove()
                if pending and sum(self._attempts.values()) == attempts:
                    raise ServerFailed("the server ended before any trial began")
            except NotProven:
                for future in self._graded:
                    future.result()
                self._put_aside_unproved()
                raise
            except ServerFailed as error:
                failed = Conversation(exit=Exit.SERVER_FAILED, detail=str(error))
                pending = [t for t in pending if self._ended(block, t, failed, Ran(), now())]
            workers = 1

    def _server(self, arm: Arm, log: Path, scratch: Path) -> Server:
        if self._spec.engine.startswith(("http:", "https:")):
            return Remote(self._spec, arm, log)
        return Server(self._spec, arm, self._model, log, scratch)

    def _serve(
        self, block: Block, trials: list[Trial], server: Server, ran: Ran, workers: int
    ) -> list[Trial]:
        """The trials that have to be tried again. What goes on when it raises, ends unheard."""
        client, todo = Client(server.url, server.healthy), iter(trials)

        def one(trial: Trial, slot: int) -> bool:
            self._progress.slot(+1)
            started = now()
            try:
                if not server.healthy():
                    return True  # ended by another trial; this one has not begun
                talk = self._solve(trial, server, client, slot)
                if talk.exit is Exit.SANDBOX_FAILED:
                    self._sandboxes.wait()
                    if self._is_lost(trial.instance):
                        return False
            except UserError:
                self._stop.set()
                raise
            except Exception as error:
                if is_disk_full(error):
                    self._stop.set()  # the trial has no outcome, and is run again
                    raise disk_full_error(self._directory.path) from None
                talk = Conversation(exit=Exit.KVCI_FAILED, detail=traceback.format_exc())
            finally:
                self._progress.slot(-1)
            return self._ended(block, trial, talk, ran, started)

        def converse_in(slot: int) -> list[Trial]:
            mine = itertools.takewhile(lambda _: not self._stop.is_set(), todo)
            return [trial for trial in mine if one(trial, slot)]

        try:
            slots = [background(converse_in, slot) for slot in range(workers)]
            again = {trial for slot in slots for trial in slot.result()}
        except BaseException:
            self._stop.set()
            raise
        return [trial for trial in trials if trial in again]

    def _solve(self, trial: Trial, server: Server, client: Client, slot: int) -> Conversation:
        instance = self._instances[trial.instance]
        shutil.rmtree(self._directory.trial(trial), ignore_errors=True)
        try:
            sandbox = self._sandboxes.make(instance)
        except SandboxFailed as error:
            return Conversation(exit=Exit.SANDBOX_FAILED, detail=str(error))
        try:
            server.erase(slot)
            place = Place(
                client=client,
                sandbox=sandbox,
                slot=slot,
                on_answer=self._progress.tokens,
                trajectory=self._directory.trial(trial) / "trajectory.jsonl",
                tests=tuple(sorted(patched_files(instance.row.test_patch))),
            )
            issue = instance.row.problem_statement
            return converse(self._spec, issue, trial.instance, trial.seed, place)
        except httpx.HTTPError as error:
            return Conversation(exit=Exit.SERVER_FAILED, detail=f"erasing slot {slot}: {error}")
        finally:
            sandbox.close()

    def _ended(
        self, block: Block, trial: Trial, talk: Conversation, ran: Ran, started: str
    ) -> bool:
        """True if the trial must be tried again; otherwise its patch goes to grading."""
        if self._stop.is_set():
            return False
        self._attempts[trial] = attempts = self._attempts.get(trial, 0) + 1
        failed = talk.exit is Exit.SERVER_FAILED
        self._server_failures[trial] = self._server_failures.get(trial, 0) + failed
        found, _ = classify(self._evidence(trial, talk, Verdict.NOT_GRADED))
        if found in GENERATED_AGAIN and attempts < ATTEMPTS_MAX:
            return True
        write = partial(self._write, block, trial, talk, ran, started, now(), attempts)
        if found in GENERATED_AGAIN:
            write(Graded(verdict=Verdict.NOT_GRADED))
            return False
        folder = self._directory.trial(trial)
        write_atomic(folder / "patch.diff", talk.patch)
        # Whatever ends kvci now, what the model did is not done again.
        waits = Graded(verdict=Verdict.GRADING_FAILED, detail=WAITS)
        write(waits, told=False)
        instance, gold = self._instances[trial.instance], self._gold[trial.instance]
        self._graded.append(
            self._grader.submit(instance, talk.patch, folder / "grade", write, resolved(gold))
        )
        return False

    def _evidence(self, trial: Trial, talk: Conversation, verdict: Verdict) -> Observed:
        gold = self._instances[trial.instance].row.patch
        return Observed(
            exit=talk.exit,
            verdict=verdict,
            last_actions=tuple(talk.actions[-LAST_ACTIONS:]),
            instance_invalid=self._invalid(trial.instance),
            server_failures=self._server_failures.get(trial, 0),
            patched_files=patched_files(talk.patch.decode(errors="replace")),
            gold_files=patched_files(gold),
        )

    def _write(
        self,
        block: Block,
        trial: Trial,
        talk: Conversation,
        ran: Ran,
        started: str,
        ended: str,
        attempts: int,
        graded: Graded,
        told: bool = True,
    ) -> None:
        if self._stop.is_set() and graded.verdict is Verdict.GRADING_FAILED:
            return
        found, why = classify(self._evidence(trial, talk, graded.verdict))
        outcome = Outcome(
            arm=trial.arm,
            instance=trial.instance,
            seed=trial.seed,
            shard=self._spec.shard,
            block=block.number,
            host=self._host,
            start=started,
            end=ended,
            attempts=attempts,
            server_failures=self._server_failures.get(trial, 0),
            server_build=ran.build,
            server=ran.server,
            verified=self._spec.verified,
            exit=talk.exit,
            detail=talk.detail or graded.detail,
            verdict=graded.verdict,
            cls=found,
            why=why,
            steps=talk.steps,
            prefill_tokens=talk.prefill_tokens,
            prefill_s=round(talk.prefill_s, 3),
            answer_tokens=talk.answer_tokens,
            decode_s=round(talk.decode_s, 3),
            depth_tokens=talk.depth_tokens,
            loops=talk.loops,
            malformed=talk.malformed,
            solve_s=round(talk.wall_s, 3),
            eval_s=round(graded.eval_s, 3),
            applies=graded.applies,
            fail_to_pass=graded.fail_to_pass,
            pass_to_pass=graded.pass_to_pass,
            patch_sha256=sha256_of(talk.patch),
            patch_bytes=len(talk.patch),
            answers_sha256=sha256_of(json.dumps(talk.answers, sort_keys=True).encode()),
        )
        outcome.write(self._directory.trial(trial) / "outcome.json")
        if told:
            self._progress.outcome(outcome)


def _heard(_: Outcome) -> None:
    """The view counts trials, and this one was counted."""
