"""The run directory: specification, manifest, server logs and the outcome of each trial."""

import fcntl
import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path

from kvci import __version__
from kvci.errors import UserError
from kvci.files import open_lock, remove_tree, sha256_of_file
from kvci.host import gpu, host
from kvci.plan import Trial
from kvci.rundir.documents import TEST_LOG, Graded, Manifest, Outcome, now
from kvci.serve.effective import Effective, read
from kvci.serve.proof import expected_of, judge
from kvci.spec import Spec
from kvci.taxonomy import Verdict


def shard_name(shard: str) -> str:
    """Return the name of a shard's folder in the run's folder."""
    return f"shard-{shard.replace('/', '-of-')}"


def shards(run: Path) -> list[Path]:
    """Return the run directories of a run's shards, in their order; empty if it has no shards."""
    return sorted(run.glob("shard-*-of-*"), key=lambda path: int(path.name.split("-")[1]))


class RunDirectory:
    """One run directory. As a context manager, it holds the lock of the directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> "RunDirectory":
        """Make the folder and take its lock.

        Raises UserError if another process holds the lock, if the folder cannot be made, or if the
        scratch folder of an earlier process cannot be removed.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open_lock(self.path / ".lock")
        except OSError as error:
            raise UserError(
                f"The folder {self.path} cannot be made ({error.strerror}); give another folder."
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise UserError(
                f"Another kvci process works on {self.path}; wait until it ends, or give another "
                "--run-id."
            ) from None
        remove_tree(self.scratch)
        try:
            self.scratch.mkdir()
        except OSError as error:
            os.close(self._lock)
            raise UserError(
                f"{self.scratch} cannot be made ({error.strerror}); remove it as root, or give "
                "another folder."
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        remove_tree(self.scratch)
        os.close(self._lock)

    @property
    def exists(self) -> bool:
        return (self.path / "manifest.json").exists()

    @property
    def manifest(self) -> Manifest:
        """The manifest. Raises UserError if the folder contains no run."""
        if not self.exists:
            raise UserError(
                f"{self.path} is not a run folder, because it has no manifest.json; give the "
                "folder of a run, for example runs/RUN-ID."
            )
        return Manifest.read(self.path / "manifest.json")

    @property
    def spec(self) -> Spec:
        """The specification.

        Raises UserError if spec.json is missing, or if this version of kvci cannot read it.
        """
        return Spec.read(self.path / "spec.json")

    @property
    def scratch(self) -> Path:
        """The folder for the work trees of running trials.

        The process that takes the lock deletes this folder, so only kvci uses its name.
        """
        return self.path / ".kvci-scratch"

    def open(
        self,
        run_id: str,
        spec: Spec,
        model_sha256: str,
        dataset_sha256: str,
        sandbox: str,
        demo: bool,
        planned: tuple[str, ...],
        dataset_revision: str = "",
        start: str = "",
    ) -> Manifest:
        """Create the run or resume it, and return its manifest.

        The specification's hash leaves out some fields. If the run is resumed, these fields get the
        new values, because another machine may have written the folder. `start` is the time when
        the run started on another machine, if it did; all shards have the same start. Raises
        UserError if the run was made for another specification.
        """
        spec_sha256 = spec.hash(model_sha256, dataset_sha256)
        if self.exists:
            found = self.manifest
            if found.spec_sha256 != spec_sha256:
                raise UserError(
                    f"{self.path} was made for another specification "
                    f"({found.spec_sha256[:12]}, not {spec_sha256[:12]}); give the options of "
                    "that run, or another --run-id."
                )
            if start and start != found.start:
                found = found.model_copy(update={"start": start})
                found.write(self.path / "manifest.json")
            spec.write(self.path / "spec.json")
            return found
        manifest = Manifest(
            run_id=run_id,
            start=start or now(),
            spec_sha256=spec_sha256,
            model_sha256=model_sha256,
            dataset_sha256=dataset_sha256,
            dataset_revision=dataset_revision,
            kvci=__version__,
            host=host(),
            gpu=gpu(),
            python=platform.python_version(),
            sandbox=sandbox,
            demo=demo,
            planned=planned,
        )
        spec.write(self.path / "spec.json")
        manifest.write(self.path / "manifest.json")
        return manifest

    def trial(self, trial: Trial) -> Path:
        return self.path / "trials" / trial.arm / trial.instance / str(trial.seed)

    def done(self, trial: Trial) -> bool:
        """True if the trial has an outcome."""
        return (self.trial(trial) / "outcome.json").exists()

    def preflight(self, instance: str) -> Path:
        """Return the folder for the grading of an instance's gold patch on this host."""
        return self.path / "preflight" / host() / instance

    def gold(self, instance: str) -> Graded | None:
        """Return the grading of an instance's gold patch on this machine.

        Return None if the gold patch did not resolve, because then the time of its tests has no
        meaning.
        """
        file = self.preflight(instance) / "graded.json"
        return resolved(Graded.read(file)) if file.exists() else None

    def supersede(self, trials: Iterable[Trial]) -> None:
        """Move these trials to superseded/<n>/. The files are kept, but the trials are not done."""
        superseded = self.path / "superseded"
        superseded.mkdir(exist_ok=True)
        used = [int(folder.name) for folder in superseded.iterdir() if folder.name.isdecimal()]
        number = str(max(used, default=-1) + 1)
        for trial in trials:
            if self.trial(trial).exists():
                target = superseded / number / trial.arm / trial.instance / str(trial.seed)
                target.parent.mkdir(parents=True, exist_ok=True)
                self.trial(trial).rename(target)

    def outcome_files(self) -> list[Path]:
        """Return the outcome files of all trials, including superseded trials."""
        folders = ("trials", "superseded/*")
        return [
            path for one in folders for path in sorted(self.path.glob(f"{one}/*/*/*/outcome.json"))
        ]

    def superseded(self) -> list[Outcome]:
        """Return the outcomes of the superseded trials."""
        paths = sorted(self.path.glob("superseded/*/*/*/*/outcome.json"))
        return [Outcome.read(path) for path in paths]

    def outcome(self, trial: Trial) -> Outcome | None:
        return Outcome.read(self.trial(trial) / "outcome.json") if self.done(trial) else None

    def server_log(self, arm: str) -> Path:
        """Return an unused path for a new log: servers/<arm>.<n>.log."""
        used = [int(log.stem.rpartition(".")[2]) for log in self.server_logs(arm)]
        (self.path / "servers").mkdir(exist_ok=True)
        return self.path / "servers" / f"{arm}.{max(used, default=-1) + 1}.log"

    def server_logs(self, arm: str) -> list[Path]:
        """Return the logs of an arm, in any order."""
        # An arm's id may start with another arm's id and a dot.
        name = re.compile(re.escape(arm) + r"\.\d+")
        return [log for log in (self.path / "servers").glob("*.log") if name.fullmatch(log.stem)]

    def judge(self, spec: Spec) -> dict[str, tuple[str, ...]]:
        """Return server -> the problems in its whole log, for servers with trials and problems.

        If the effective configuration of a log changed, this function writes the configuration next
        to the log as JSON.
        """
        with_trials = {outcome.server for outcome in self.outcomes()}
        found: dict[str, tuple[str, ...]] = {}
        for arm in spec.arms if spec.verified else ():
            for log in self.server_logs(arm.id):
                if log.stem in with_trials:
                    effective = judge(read(log.read_text(errors="replace")), expected_of(spec, arm))
                    file = log.with_suffix(".json")
                    # Reading a run must not change the bytes of its evidence.
                    if not file.exists() or Effective.read(file) != effective:
                        effective.write(file)
                    if effective.problems:
                        found[log.stem] = effective.problems
        return found

    def outcomes(self) -> list[Outcome]:
        files = sorted((self.path / "trials").glob("*/*/*/outcome.json"))
        return [Outcome.read(file) for file in files]


def digest_of_log(trial: Path) -> str:
    """Return the digest of the test log in a trial's folder; empty if there is none."""
    log = trial / "grade" / TEST_LOG
    return sha256_of_file(log) if log.exists() else ""


def resolved(gold: Graded | None) -> Graded | None:
    """Return the gold patch's grading if the gold patch resolved, else None."""
    return gold if gold and gold.verdict is Verdict.RESOLVED else None
