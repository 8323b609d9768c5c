"""Blocks -> arms in the block's order -> one server -> as many conversations as slots."""

import queue
import shutil
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from kvci.agent.client import Client
from kvci.agent.loop import Conversation, Place, converse
from kvci.files import sha256_of, write_atomic
from kvci.grade import Graded
from kvci.plan import Block, Trial
from kvci.run.directory import Outcome, RunDirectory, now
from kvci.run.grading import Grader
from kvci.sandbox import SandboxFailed
from kvci.sandbox.bwrap import Bwrap
from kvci.serve.server import Server, ServerFailed
from kvci.spec import Arm, Spec
from kvci.tasks.calibration import Instance
from kvci.tasks.row import patched_files
from kvci.taxonomy import ATTEMPTS_MAX, GENERATED_AGAIN, Evidence, Exit, Verdict, classify

LAST_ACTIONS = 9
"""As many as the longest cycle that counts as a loop."""


class Scheduler:
    """Runs what is not done yet. `tell` hears each outcome as it is written."""

    def __init__(
        self,
        spec: Spec,
        model: Path,
        instances: dict[str, Instance],
        directory: RunDirectory,
        tell: Callable[[Outcome], None],
    ) -> None:
        self._spec, self._model, self._instances = spec, model, instances
        self._directory, self._tell = directory, tell
        self._arms = {arm.id: arm for arm in spec.arms}
        self._grader = Grader(directory.scratch, spec.test_s)
        self._graded: list[Future[Graded]] = []
        self._attempts: dict[Trial, int] = {}
        self._stop = threading.Event()

    def run(self, blocks: list[Block]) -> None:
        """Raises Refused if a server does not prove what was asked, and Refused alone."""
        try:
            for block in blocks:
                for arm in block.arms:
                    self._arm(block, self._arms[arm])
            for future in self._graded:
                future.result()
        except BaseException:
            self._stop.set()
            self._grader.close(wait=False)
            raise
        self._grader.close(wait=True)

    def _arm(self, block: Block, arm: Arm) -> None:
        """All trials of one arm in one block; infrastructure failures are tried again, twice."""
        pending = [t for t in block.trials(arm.id) if not self._directory.done(t)]
        while pending:
            log, scratch = self._directory.server_log(arm.id), self._directory.scratch
            try:
                with Server(self._spec, arm, self._model, log, scratch) as server:
                    effective = server.effective
                    effective.write(log.with_suffix(".json"))
                    pending = self._serve(block, pending, server, effective.build or "")
                    if self._spec.verified and server.healthy():
                        server.prove()
            except ServerFailed as error:
                failed = Conversation(exit=Exit.SERVER_FAILED, detail=str(error))
                pending = [t for t in pending if self._ended(block, t, failed, "", now())]

    def _serve(self, block: Block, trials: list[Trial], server: Server, build: str) -> list[Trial]:
        """The trials that have to be tried again."""
        slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(self._spec.slots):
            slots.put(slot)

        def one(trial: Trial) -> bool:
            slot = slots.get()
            started = now()
            try:
                talk = self._solve(trial, server, slot)
            except Exception:
                talk = Conversation(exit=Exit.KVCI_FAILED, detail=traceback.format_exc())
            finally:
                slots.put(slot)
            return self._ended(block, trial, talk, build, started)

        with ThreadPoolExecutor(self._spec.slots) as pool:
            futures = [pool.submit(one, trial) for trial in trials]
            try:
                again = [future.result() for future in futures]
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [trial for trial, more in zip(trials, again, strict=True) if more]

    def _solve(self, trial: Trial, server: Server, slot: int) -> Conversation:
        instance = self._instances[trial.instance]
        shutil.rmtree(self._directory.trial(trial), ignore_errors=True)
        try:
            sandbox = Bwrap(instance.files, self._directory.scratch)
        except (OSError, SandboxFailed) as error:
            return Conversation(exit=Exit.SANDBOX_FAILED, detail=str(error))
        try:
            if not server.healthy():
                return Conversation(exit=Exit.SERVER_FAILED, detail="the health check failed")
            server.erase(slot)
            place = Place(
                client=Client(server.url, server.healthy, self._spec.trial_s),
                sandbox=sandbox,
                slot=slot,
                trajectory=self._directory.trial(trial) / "trajectory.jsonl",
                tests=tuple(sorted(patched_files(instance.row.test_patch))),
            )
            issue = instance.row.problem_statement
            return converse(self._spec, issue, trial.instance, trial.seed, place)
        finally:
            sandbox.close()

    def _ended(
        self, block: Block, trial: Trial, talk: Conversation, build: str, started: str
    ) -> bool:
        """True if the trial must be tried again; otherwise its patch goes to grading."""
        if self._stop.is_set():
            return False
        self._attempts[trial] = attempts = self._attempts.get(trial, 0) + 1
        found, _ = classify(self._evidence(trial, talk, Verdict.NOT_GRADED))
        if found in GENERATED_AGAIN and attempts < ATTEMPTS_MAX:
            return True
        write = partial(self._write, block, trial, talk, build, started, now(), attempts)
        if found in GENERATED_AGAIN:
            write(Graded(verdict=Verdict.NOT_GRADED))
            return False
        folder = self._directory.trial(trial)
        write_atomic(folder / "patch.diff", talk.patch)
        instance = self._instances[trial.instance]
        self._graded.append(self._grader.submit(instance, talk.patch, folder / "grade", write))
        return False

    def _evidence(self, trial: Trial, talk: Conversation, verdict: Verdict) -> Evidence:
        gold = self._instances[trial.instance].row.patch
        failures = self._attempts.get(trial, 0) if talk.exit is Exit.SERVER_FAILED else 0
        return Evidence(
            exit=talk.exit,
            verdict=verdict,
            last_actions=tuple(talk.actions[-LAST_ACTIONS:]),
            server_failures=failures,
            patched_files=patched_files(talk.patch.decode(errors="replace")),
            gold_files=patched_files(gold),
        )

    def _write(
        self,
        block: Block,
        trial: Trial,
        talk: Conversation,
        build: str,
        started: str,
        ended: str,
        attempts: int,
        graded: Graded,
    ) -> None:
        if self._stop.is_set() and graded.verdict is Verdict.GRADING_FAILED:
            return
        found, why = classify(self._evidence(trial, talk, graded.verdict))
        outcome = Outcome(
            arm=trial.arm,
            instance=trial.instance,
            seed=trial.seed,
            block=block.number,
            start=started,
            end=ended,
            attempts=attempts,
            server_build=build,
            verified=self._spec.verified,
            exit=talk.exit,
            detail=talk.detail or graded.detail,
            verdict=graded.verdict,
            cls=found,
            why=why,
            steps=talk.steps,
            answer_tokens=talk.answer_tokens,
            depth_tokens=talk.depth_tokens,
            malformed=talk.malformed,
            solve_s=round(talk.wall_s, 3),
            eval_s=round(graded.eval_s, 3),
            applies=graded.applies,
            fail_to_pass=graded.fail_to_pass,
            pass_to_pass=graded.pass_to_pass,
            patch_sha256=sha256_of(talk.patch),
            patch_bytes=len(talk.patch),
        )
        outcome.write(self._directory.trial(trial) / "outcome.json")
        self._tell(outcome)
