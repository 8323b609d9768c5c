"""Run the trials of a run, block by block.

In each block, the arms run one after another in random order. Each arm has its own server, which
holds as many conversations at a time as it has slots.
"""

import itertools
import json
import os
import shutil
import threading
import time
import traceback
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import httpx

from kvci.agent.client import Client
from kvci.agent.conversation import Conversation
from kvci.agent.loop import Place, converse
from kvci.errors import UserError
from kvci.files import disk_full_error, is_disk_full, sha256_of, write_atomic
from kvci.host import host
from kvci.plan import Block, Trial
from kvci.problems import brief
from kvci.run.attempt import no_test_ran
from kvci.run.grader import Grader
from kvci.run.progress import Progress
from kvci.run.regrade import regrade_trial
from kvci.run.sandboxes import Sandboxes
from kvci.run.supplies import NothingToFetch, Supplies
from kvci.rundir.directory import RunDirectory, digest_of_log, resolved
from kvci.rundir.documents import (
    ATTEMPTS,
    WAITS,
    WITHOUT_PATCH,
    Attempts,
    Ceiling,
    FailedAttempt,
    Graded,
    Outcome,
    now,
)
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
class ServerOfTrial:
    """The server of a trial: the server's build, and the name of the server's log."""

    build: str = ""
    server: str = ""


class BuildChanged(Exception):
    """The server's build differs from the build of the block's earlier trials."""


class Scheduler:
    """The scheduler of a run. It runs the trials that are not done, and reports to `progress`."""

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
        self._grader = Grader(sandboxes, spec.test_s, spec.grade_workers)
        self._blocks_ahead = ceil((spec.slots + self._grader.workers) / spec.block_size)
        """How many blocks after the current block may have their gold patches graded."""
        self._graded: list[Future[Graded]] = []
        self._preflights: dict[str, Future[Graded]] = {}
        self._gold: dict[str, Graded] = {}
        self._attempts: dict[Trial, int] = {}
        self._server_failures: dict[Trial, int] = {}
        self._accounts: dict[Trial, list[FailedAttempt]] = {}
        """The attempts that infrastructure or kvci ended."""
        self._without_image: set[str] = set()
        """Instances that had no image when kvci wanted to grade their gold patch."""
        self._image_removed: set[str] = set()
        """Instances whose images were removed by hand while kvci needed them."""
        self._stop = threading.Event()
        self._supply = supply or NothingToFetch()
        self._longest_s = 0.0
        self.out_of_time = False
        """True if the time budget ended the run."""

    def run(self, blocks: list[Block]) -> None:
        """Run these blocks. A block does not start if it may exceed the time budget.

        Raises UserError if a server's log does not prove the arm's configuration, or if a block
        takes longer than a day.
        """
        started = time.monotonic()
        self._supersede_unproven()
        todo = [block for block in blocks if not self._complete(block)]
        try:
            in_time = not self._spec.preflight_first or self._validate(blocks, started)
            for _ in range(ATTEMPTS_MAX):
                self._image_removed.clear()
                for wave in self._supply.waves(todo) if in_time else ():
                    in_time = self._wave(wave, started)
                    self._await_gradings()
                    self._note_images_removed_in_grading(wave)
                    if not in_time:
                        break
                todo = [block for block in todo if not self._complete(block)]
                if not in_time or not self._image_removed:
                    break
            cut = self._supply.stopped() and not all(map(self._complete, todo))
            self.out_of_time = not in_time or bool(cut)
        except BaseException:
            self._stop.set()
            self._grader.close(wait=False)
            raise
        for future in self._preflights.values():
            future.cancel()
        self._grader.close(wait=True)

    def _validate(self, blocks: list[Block], started: float) -> bool:
        """Grade all gold patches before the first server starts, and write ceiling.json.

        Return False if the time budget ended the grading.
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
                if self._over_budget(started):
                    return False
                self._await_preflight(block)
        if self._supply.stopped() and not self._gold.keys() >= set(names):
            return False
        asked, names = len(names), [name for name in names if name in self._gold]
        gold = {name: self._gold[name] for name in names}
        invalid = {
            name: brief(one.detail) or f"the gold patch's verdict is {one.verdict}"
            for name, one in gold.items()
            if self._invalid(name)
        }
        resolved = [name for name, one in gold.items() if one.verdict is Verdict.RESOLVED]
        ceiling = Ceiling(asked=asked, valid=tuple(resolved), invalid=invalid)
        ceiling.write(self._directory.path / "ceiling.json")
        self._progress.say(ceiling.line())
        return True

    def _over_budget(self, started: float, ahead_s: float = 0.0) -> bool:
        """True if work that takes another `ahead_s` seconds would exceed the time budget."""
        budget_s = self._spec.time_budget_s
        return budget_s is not None and time.monotonic() - started + ahead_s > budget_s

    def _wave(self, wave: list[Block], started: float) -> bool:
        """Run blocks whose images are on this machine.

        Return False if the time budget ended the work.
        """
        for number, block in enumerate(wave):
            if self._over_budget(started, self._longest_s + self._grader.backlog_s()):
                return False
            began = time.monotonic()
            for soon in wave[number : number + 1 + self._blocks_ahead]:
                self._preflight(soon)
            self._block(block)
            self._longest_s = max(self._longest_s, time.monotonic() - began)
        return True

    def _supersede_unproven(self) -> None:
        """Supersede trials if the whole log of their server does not prove the arm's configuration.

        This is the third check. The first is at the server's start, the second after its warm-up.
        """
        problems = self._directory.judge(self._spec)
        trials = [
            outcome.trial for outcome in self._directory.outcomes() if outcome.server in problems
        ]
        if trials:
            self._directory.supersede(trials)

    def _trials(self, block: Block) -> list[Trial]:
        return [trial for arm in block.arms for trial in block.trials(arm)]

    def _complete(self, block: Block) -> bool:
        """True if every trial has an outcome, and no patch has to be graded again.

        If a grading failed on another machine, it is not repeated on this machine. If a trial still
        waits for its grading on another machine, the trial runs again on this machine, because the
        other machine may not come back.
        """
        outcomes = self._outcomes_of(block)
        waits = any(one.waits or (one.ungraded and one.host == self._host) for one in outcomes)
        return len(outcomes) == len(self._trials(block)) and not waits

    def _waits_elsewhere(self, block: Block) -> bool:
        """True if another machine stopped before it graded all patches of the block."""
        return any(one.waits and one.host != self._host for one in self._outcomes_of(block))

    def _preflight(self, block: Block) -> None:
        """Start to grade the gold patches of a block, in the background."""
        for name in block.instances:
            folder = self._directory.preflight(name)
            if name in self._without_image and not self._supply.absent(name):
                self._without_image.remove(name)
                self._gold.pop(name, None)
            if name in self._gold or name in self._preflights:
                continue
            if (folder / "graded.json").exists():
                self._gold[name] = Graded.read(folder / "graded.json")
            else:
                self._preflights[name] = self._grader.preflight(self._instances[name], folder)

    def _await_preflight(self, block: Block) -> None:
        """Wait for the gradings that `_preflight` started, and keep their results."""
        for name in block.instances:
            if future := self._preflights.pop(name, None):
                graded, folder = future.result(), self._directory.preflight(name)
                if no_test_ran(graded) and not self._supply.absent(name):
                    if self._note_removed_image(name):
                        continue
                    # The image may have been missing for a while, so only the new result counts.
                    graded = self._grader.preflight(self._instances[name], folder).result()
                self._gold[name] = graded
                if no_test_ran(graded) and self._supply.absent(name):
                    self._without_image.add(name)  # a later wave may fetch the image
                else:
                    graded.write(folder / "graded.json")

    def _note_removed_image(self, name: str) -> bool:
        """True if kvci pulled an image for this instance, and the image is not here any more.

        The instance's trials then wait until all other blocks have run. After that, kvci pulls the
        image again.
        """
        instance = self._instances[name]
        if self._supply.absent(name) or not self._sandboxes.lacks(instance):
            return False
        if name not in self._image_removed:
            self._image_removed.add(name)
            self._progress.say(f"image {instance.row.image} was removed while kvci needed it")
        return True

    def _block(self, block: Block) -> None:
        """Run all arms of a block. Supersede trials that cannot be paired with new trials."""
        self._await_preflight(block)
        done = all(self._directory.done(trial) for trial in self._trials(block))
        if done and not self._waits_elsewhere(block):
            self._regrade(block)
            return
        if unserved := self._never_served(block):
            self._directory.supersede(unserved)
        # This comes before any regrading, which would write the outcome of a superseded trial.
        if self._cannot_pair(block, ""):
            self._directory.supersede(self._trials(block))
        self._regrade(block)
        for _ in range(ATTEMPTS_MAX):
            try:
                for arm in block.arms:
                    if self._over_a_day(block):
                        raise UserError(
                            f"Block {block.number} takes longer than a day; give a smaller "
                            "block_size and another --run-id."
                        )
                    self._arm(block, self._arms[arm])
                return
            except BuildChanged:
                self._await_gradings()
                self._directory.supersede(self._trials(block))
        raise UserError("llama-server's build changed between restarts; pin it with --engine PATH.")

    def _note_images_removed_in_grading(self, wave: list[Block]) -> None:
        """Note images that were removed by hand.

        This happens while no kvci process may evict the wave's images.
        """
        for one in [one for block in wave for one in self._outcomes_of(block)]:
            if one.ungraded and one.host == self._host:
                self._note_removed_image(one.instance)

    def _regrade(self, block: Block) -> None:
        """Grade stored patches again if their grading failed on this machine.

        Both trials of a pair must be graded on the same machine.
        """
        for outcome in (one for one in self._outcomes_of(block) if one.host == self._host):
            if not outcome.ungraded or outcome.instance in self._image_removed:
                continue
            gold = resolved(self._gold[outcome.instance])
            instance, prompt = self._instances[outcome.instance], self._spec.prompt
            self._graded.append(
                regrade_trial(
                    outcome, self._directory, instance, self._grader, prompt, gold, _ignore
                )
            )

    def _outcomes_of(self, block: Block) -> list[Outcome]:
        found = [self._directory.outcome(trial) for trial in self._trials(block)]
        return [outcome for outcome in found if outcome]

    def _never_served(self, block: Block) -> list[Trial]:
        """Return trials of a resumed block whose server never started.

        The build of their server is not known, and the server may start now.
        """
        return [
            one.trial
            for one in self._outcomes_of(block)
            if one.exit is Exit.SERVER_FAILED and not one.server_build
        ]

    def _over_a_day(self, block: Block) -> bool:
        """True if the block's first trial started too long ago to be paired with a new trial."""
        starts = [datetime.fromisoformat(outcome.start) for outcome in self._outcomes_of(block)]
        return bool(starts) and datetime.fromisoformat(now()) - min(starts) > BLOCK_MAX

    def _cannot_pair(self, block: Block, build: str) -> bool:
        """True if the block's trials cannot be paired with new trials of this host and build."""
        outcomes = self._outcomes_of(block)
        builds = {outcome.server_build for outcome in outcomes} | {build}
        foreign = any(outcome.host != self._host for outcome in outcomes)
        return foreign or len(builds - {""}) > 1 or self._over_a_day(block)

    def _invalid(self, name: str) -> bool:
        """True if the gold patch does not resolve on this host, or could not be graded.

        If the image of an instance does not exist, the result is False. Its trials get class I1.
        """
        return not self._supply.absent(name) and self._gold[name].verdict is not Verdict.RESOLVED

    def _arm(self, block: Block, arm: Arm) -> None:
        """Run all trials of one arm in one block. Trials that infrastructure ends get two retries.

        Retries use one slot. So a retried trial that ends the server does not end other trials.
        """
        pending = [t for t in block.trials(arm.id) if not self._directory.done(t)]
        pending = [t for t in pending if t.instance not in self._image_removed]
        for trial in [t for t in pending if self._invalid(t.instance)]:
            not_started = Conversation(exit=Exit.NOT_STARTED)
            gold = self._gold[trial.instance]
            self._write(block, trial, not_started, ServerOfTrial(), now(), now(), 0, gold)
        pending = [t for t in pending if not self._invalid(t.instance)]
        for trial in [t for t in pending if self._supply.absent(t.instance)]:
            why = self._supply.absent(trial.instance)
            no_sandbox = Conversation(exit=Exit.SANDBOX_FAILED, detail=why)
            self._account(trial, no_sandbox, now())
            ungraded = Graded(verdict=Verdict.NOT_GRADED)
            self._write(block, trial, no_sandbox, ServerOfTrial(), now(), now(), 0, ungraded)
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
                    if self._cannot_pair(block, build):
                        raise BuildChanged
                    used = ServerOfTrial(build, log.stem)
                    pending = self._serve(block, pending, server, used, workers)
                if self._spec.verified:
                    server.prove()
                if pending and sum(self._attempts.values()) == attempts:
                    raise ServerFailed("the server ended before any trial started")
            except NotProven:
                self._await_gradings()
                self._supersede_unproven()
                raise
            except ServerFailed as error:
                failed = Conversation(exit=Exit.SERVER_FAILED, detail=str(error))
                no_server = ServerOfTrial()
                for trial in pending:
                    self._account(trial, failed, now())
                pending = [t for t in pending if self._finish(block, t, failed, no_server, now())]
            workers = 1

    def _await_gradings(self) -> None:
        """Wait for all gradings that were started; raise the error of one that failed."""
        for future in self._graded:
            future.result()

    def _server(self, arm: Arm, log: Path, scratch: Path) -> Server:
        if self._spec.engine.startswith(("http:", "https:")):
            return Remote(self._spec, arm, log)
        return Server(self._spec, arm, self._model, log, scratch)

    def _serve(
        self,
        block: Block,
        trials: list[Trial],
        server: Server,
        used: ServerOfTrial,
        workers: int,
    ) -> list[Trial]:
        """Run the trials on this server, and return the trials to retry.

        If this function raises an exception, running conversations end without an outcome.
        """
        client, todo = Client(server.url, server.healthy), iter(trials)

        def retries(trial: Trial, slot: int) -> bool:
            """Run one trial. Return True if the trial must be retried."""
            self._progress.slot(+1)
            started = now()
            try:
                if not server.healthy():
                    return True  # another trial ended the server; this trial has not started
                talk = self._solve(trial, server, client, slot)
                if talk.exit in WITHOUT_PATCH:
                    answers = server.healthy()
                    self._account(trial, talk, started, server=used.server, server_answers=answers)
                if talk.exit is Exit.SANDBOX_FAILED:
                    self._sandboxes.wait()
                    if self._note_removed_image(trial.instance):
                        return False
            except UserError:
                self._stop.set()
                raise
            except Exception as error:
                if is_disk_full(error):
                    self._stop.set()  # the trial gets no outcome, so a resume runs it again
                    raise disk_full_error(self._directory.path) from None
                talk = Conversation(exit=Exit.KVCI_FAILED, detail=traceback.format_exc())
                self._account(trial, talk, started, server=used.server)
            finally:
                self._progress.slot(-1)
            return self._finish(block, trial, talk, used, started)

        def run_slot(slot: int) -> list[Trial]:
            trials_of_slot = itertools.takewhile(lambda _: not self._stop.is_set(), todo)
            return [trial for trial in trials_of_slot if retries(trial, slot)]

        try:
            slots = [background(run_slot, slot) for slot in range(workers)]
            to_retry = {trial for slot in slots for trial in slot.result()}
        except BaseException:
            self._stop.set()
            raise
        return [trial for trial in trials if trial in to_retry]

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

    def _account(self, trial: Trial, talk: Conversation, started: str, **server: Any) -> None:
        """Keep an account of an attempt that infrastructure or kvci ended just now."""
        attempt = self._sandboxes.account(started, talk.exit, talk.detail, **server)
        self._accounts.setdefault(trial, []).append(attempt)

    def _finish(
        self, block: Block, trial: Trial, talk: Conversation, used: ServerOfTrial, started: str
    ) -> bool:
        """Return True if the trial must be retried.

        Otherwise write the trial's outcome, and start to grade its patch.
        """
        if self._stop.is_set():
            return False
        self._attempts[trial] = attempts = self._attempts.get(trial, 0) + 1
        failed = talk.exit is Exit.SERVER_FAILED
        self._server_failures[trial] = self._server_failures.get(trial, 0) + failed
        found, _ = classify(self._evidence(trial, talk, Verdict.NOT_GRADED))
        if found in GENERATED_AGAIN and attempts < ATTEMPTS_MAX:
            return True
        write = partial(self._write, block, trial, talk, used, started, now(), attempts)
        if found in GENERATED_AGAIN:
            write(Graded(verdict=Verdict.NOT_GRADED))
            return False
        folder = self._directory.trial(trial)
        write_atomic(folder / "patch.diff", talk.patch)
        # If kvci ends now, a resume grades this patch. It does not repeat the conversation.
        waits = Graded(verdict=Verdict.GRADING_FAILED, detail=WAITS)
        write(waits, show=False)
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
        used: ServerOfTrial,
        started: str,
        ended: str,
        attempts: int,
        graded: Graded,
        show: bool = True,
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
            server_build=used.build,
            server=used.server,
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
            doubt=graded.doubt,
            trajectory_sha256=talk.trajectory_sha256,
            log_sha256=digest_of_log(self._directory.trial(trial)),
            workflow_run=os.environ.get("GITHUB_RUN_ID", ""),
        )
        folder = self._directory.trial(trial)
        if accounts := self._accounts.get(trial):
            Attempts(attempts=tuple(accounts)).write(folder / ATTEMPTS)
        outcome.write(folder / "outcome.json")
        if show:
            self._progress.outcome(outcome)


def _ignore(_: Outcome) -> None:
    """Do nothing, because the progress view already counted this trial."""
