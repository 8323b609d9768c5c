"""The run directory: what was asked, what was found, and each trial's outcome."""

import fcntl
import platform
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from kvci import __version__
from kvci.errors import UserError
from kvci.files import Document, clear
from kvci.host import gpu, host
from kvci.plan import Trial
from kvci.serve.effective import Effective, asked_of, judge, read
from kvci.spec import Spec
from kvci.taxonomy import INFRASTRUCTURE, Class, Exit, Verdict

RUN_ID = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,199}$"
ARM, INSTANCE = r"^[a-z0-9_+.-]{1,200}$", r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
SHARD = r"^[1-9]\d{0,3}/[1-9]\d{0,3}$"
WAITS = "it waits to be graded"
"""An outcome's detail."""


def _is_a_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


Instant = Annotated[
    str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"), AfterValidator(_is_a_time)
]


class Manifest(Document):
    """What was found when the run was created."""

    run_id: str = Field(pattern=RUN_ID)
    start: Instant
    spec_sha256: str
    model_sha256: str
    dataset_sha256: str
    dataset_revision: str = ""
    """The hub's commit; a file has none."""
    kvci: str
    host: str
    """Not the machine's name, which is nobody's business, but a digest that tells two apart."""
    gpu: str
    """Name and driver version as nvidia-smi says them; empty without a GPU."""
    python: str
    sandbox: str
    demo: bool
    """A demo never becomes a row of the repository's BENCHMARKS.md."""
    planned: tuple[Annotated[str, Field(pattern=INSTANCE)], ...]
    """Instance ids, in the dataset's order."""
    redacted: bool = False
    """This is published evidence: what must not be told is out of it already."""


class Ceiling(Document):
    """What a perfect model could resolve on this host."""

    asked: int
    valid: tuple[str, ...]
    invalid: dict[str, str]
    """Instance -> why it is dropped for all arms; an instance in neither was not graded."""

    def line(self) -> str:
        dropped = "".join(f"; {name} is dropped: {why}" for name, why in self.invalid.items())
        return f"{len(self.valid)} of {self.asked} instances can be resolved here{dropped}"


Count = Annotated[int, Field(ge=0, lt=1 << 53)]
Seconds = Annotated[float, Field(ge=0, lt=1e9)]


class Outcome(Document):
    """One trial, finished. Times are UTC; `attempts` counts this one."""

    arm: str = Field(pattern=ARM)
    instance: str = Field(pattern=INSTANCE)
    seed: int
    shard: str = Field(pattern=SHARD)
    block: Count
    host: str
    start: Instant
    end: Instant
    attempts: Count
    server_failures: Count = 0
    """Attempts, this one included, that ended with the server failing."""
    server_build: str
    server: str = ""
    """The log that proves what it ran under, as in servers/<server>.log."""
    verified: bool
    exit: Exit
    detail: str
    verdict: Verdict
    cls: Class
    why: str
    steps: Count
    prefill_tokens: Count
    """Tokens that the server computed for prompts; what its cache held is not among them."""
    prefill_s: Seconds
    answer_tokens: Count
    decode_s: Seconds
    depth_tokens: Count
    """The deepest context reached, prompt and answer."""
    loops: Count
    """Steps at which the last actions repeated."""
    malformed: Count
    solve_s: Seconds
    eval_s: Seconds
    applies: bool | None
    fail_to_pass: tuple[Count, Count]
    pass_to_pass: tuple[Count, Count]
    patch_sha256: str
    patch_bytes: Count
    answers_sha256: str = ""
    """Of all that the model said, so that it can be told whether a token differs."""

    @property
    def waits(self) -> bool:
        """Its conversation has ended, and its patch was not graded yet: it is not done."""
        return self.detail == WAITS and self.verdict is Verdict.GRADING_FAILED

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if (self.cls is Class.OK) != (
            self.verdict is Verdict.RESOLVED and self.cls not in INFRASTRUCTURE | {Class.A12}
        ):
            raise ValueError(f"class {self.cls} and verdict {self.verdict} do not go together")
        return self


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def shard_name(shard: str) -> str:
    """Of its folder beside those of the other shards."""
    return f"shard-{shard.replace('/', '-of-')}"


def shards(run: Path) -> list[Path]:
    """The run directories of a run's shards, the first shard first; none if it has no shards."""
    return sorted(run.glob("shard-*-of-*"), key=lambda path: int(path.name.split("-")[1]))


class RunDirectory:
    """A context manager that holds the directory's lock."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> "RunDirectory":
        """Raises UserError if another process works on this directory, or it cannot be made."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise UserError(f"{self.path} cannot be made: {error.strerror}.") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise UserError(
                f"Another kvci works on {self.path}; wait for it or give another --run-id."
            ) from None
        clear(self.scratch)
        self.scratch.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        clear(self.scratch)
        self._lock.close()

    @property
    def scratch(self) -> Path:
        """Work trees of trials in flight; whoever takes the lock removes it, and by its name it is
        kvci's own."""
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
        """Create the run, or take it up. Raises UserError if it was made for another spec.

        Of what the hash leaves out, what is asked now counts: another machine may have written what
        lies there. `start` is that of the run where it began elsewhere, and all its shards have the
        same.
        """
        path = self.path / "manifest.json"
        spec_sha256 = spec.hash(model_sha256, dataset_sha256)
        if path.exists():
            found = Manifest.read(path)
            if found.spec_sha256 != spec_sha256:
                raise UserError(
                    f"{self.path} was made for another spec ({found.spec_sha256[:12]}, not "
                    f"{spec_sha256[:12]}); give another --run-id."
                )
            if start and start != found.start:
                found = found.model_copy(update={"start": start})
                found.write(path)
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
        manifest.write(path)
        return manifest

    def trial(self, trial: Trial) -> Path:
        return self.path / "trials" / trial.arm / trial.instance / str(trial.seed)

    def done(self, trial: Trial) -> bool:
        return (self.trial(trial) / "outcome.json").exists()

    def preflight(self, instance: str) -> Path:
        """The folder of the gold patch's grading on this host."""
        return self.path / "preflight" / host() / instance

    def supersede(self, trials: Iterable[Trial]) -> None:
        """Put these trials aside; they are kept, and no longer done."""
        kept = self.path / "superseded"
        kept.mkdir(exist_ok=True)
        used = [int(folder.name) for folder in kept.iterdir() if folder.name.isdecimal()]
        number = str(max(used, default=-1) + 1)
        for trial in trials:
            if self.trial(trial).exists():
                place = kept / number / trial.arm / trial.instance / str(trial.seed)
                place.parent.mkdir(parents=True, exist_ok=True)
                self.trial(trial).rename(place)

    def outcome(self, trial: Trial) -> Outcome | None:
        return Outcome.read(self.trial(trial) / "outcome.json") if self.done(trial) else None

    def server_log(self, arm: str) -> Path:
        """A name not used before: servers/<arm>.<n>.log."""
        used = [int(log.stem.rpartition(".")[2]) for log in self.server_logs(arm)]
        (self.path / "servers").mkdir(exist_ok=True)
        return self.path / "servers" / f"{arm}.{max(used, default=-1) + 1}.log"

    def server_logs(self, arm: str) -> list[Path]:
        """In no order. An arm's id may begin with another's and a dot."""
        name = re.compile(re.escape(arm) + r"\.\d+")
        return [log for log in (self.path / "servers").glob("*.log") if name.fullmatch(log.stem)]

    def judge(self, spec: Spec) -> dict[str, tuple[str, ...]]:
        """Server -> the problems that its whole log shows, of those under which trials ran.

        What each log shows is written beside it, where that is not there.
        """
        ran = {outcome.server for outcome in self.outcomes()}
        found: dict[str, tuple[str, ...]] = {}
        for arm in spec.arms if spec.verified else ():
            for log in self.server_logs(arm.id):
                if log.stem in ran:
                    effective = judge(read(log.read_text(errors="replace")), asked_of(spec, arm))
                    known = log.with_suffix(".json")
                    # Else evidence would change while it is looked at, if but in a space.
                    if not known.exists() or Effective.read(known) != effective:
                        effective.write(known)
                    if effective.problems:
                        found[log.stem] = effective.problems
        return found

    def outcomes(self) -> list[Outcome]:
        files = sorted((self.path / "trials").glob("*/*/*/outcome.json"))
        return [Outcome.read(file) for file in files]
