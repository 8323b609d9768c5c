"""The documents of a run directory: manifest, outcomes of trials, gradings of patches."""

from datetime import UTC, datetime
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, model_validator

from kvci.files import Document
from kvci.plan import Trial
from kvci.taxonomy import INFRASTRUCTURE, Class, Exit, Verdict, titled
from kvci.versioned import Versioned, since

RUN_ID = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,199}$"
RUN_ID_RULE = "use at most 200 letters, digits and . _ + -, and start with a letter or a digit"
ARM, INSTANCE = r"^[a-z0-9_+.-]{1,200}$", r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
SHARD = r"^[1-9]\d{0,3}/[1-9]\d{0,3}$"
WITHOUT_PATCH = {Exit.NOT_STARTED, Exit.SANDBOX_FAILED, Exit.SERVER_FAILED, Exit.REQUEST_FAILED}
WITHOUT_PATCH |= {Exit.KVCI_FAILED}
"""A conversation that ended with one of these exits has no patch."""
UNGRADED = {Verdict.GRADING_FAILED, Verdict.NOT_GRADED}
TEST_LOG = "test_output.txt"
"""The test log in the folder of a grading. swebench's harness has the same name."""
ATTEMPTS = "attempts.json"
"""The file with the attempts at a trial, or in the folder of its grading, those at its grading."""
WAITS = "it waits to be graded"
"""The detail of an outcome whose patch is not graded yet; part of the file format."""


def _is_a_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


Instant = Annotated[
    str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"), AfterValidator(_is_a_time)
]


class Manifest(Document):
    """What kvci found when it created the run: machine, versions and hashes."""

    run_id: str = Field(pattern=RUN_ID)
    start: Instant
    spec_sha256: str
    model_sha256: str
    dataset_sha256: str
    dataset_revision: str = ""
    """The dataset's commit on the hub; empty if the dataset is not from the hub."""
    kvci: str
    host: str
    """A digest that identifies the machine. The machine's name stays private."""
    gpu: str
    """The GPU's name and driver version, as nvidia-smi reports them; empty without a GPU."""
    python: str
    sandbox: str
    demo: bool
    """True for `kvci demo`; a demo never becomes a row of the repository's BENCHMARKS.md."""
    planned: tuple[Annotated[str, Field(pattern=INSTANCE)], ...]
    """The ids of the planned instances, in the dataset's order."""
    redacted: bool = False
    """True in published evidence, because private text is removed from it."""


Doubt = Annotated[str, Field(pattern=r"^[A-Za-z0-9 ,;.-]{0,300}$")]
"""Why the test output may not come from the test runner; empty if nothing shows it."""


class Graded(Versioned):
    """A verdict with its evidence. The counts are (passed tests, all tests).

    If `applies` is None, kvci did not try to apply the patch.
    """

    SCHEMA: ClassVar[int] = 2
    verdict: Verdict
    detail: str = ""
    applies: bool | None = None
    fail_to_pass: tuple[int, int] = (0, 0)
    pass_to_pass: tuple[int, int] = (0, 0)
    eval_s: float = 0.0
    doubt: Doubt | None = since(2, None)
    """None if there is no test log with both markers."""


class Ceiling(Document):
    """The instances that a perfect model could resolve on this host."""

    asked: int
    valid: tuple[str, ...]
    invalid: dict[str, str]
    """Instance -> why all arms drop it. An instance missing in both fields was not graded."""

    def line(self) -> str:
        """Return one line for a person."""
        dropped = "".join(f"; {name} is dropped: {why}" for name, why in self.invalid.items())
        return (
            f"The gold patch resolves {len(self.valid)} of {self.asked} instances on this "
            f"machine{dropped}"
        )


Count = Annotated[int, Field(ge=0, lt=1 << 53)]


class FailedAttempt(Document):
    """One attempt at a trial, or at grading its patch, that infrastructure or kvci ended."""

    start: Instant
    end: Instant
    ended: Exit | Verdict
    """The exit of the conversation, or the verdict of the grading."""
    detail: str
    """The text of the exception."""
    server: str = ""
    """The name of the server's log; empty if no server started, and for a grading."""
    server_answers: bool | None = None
    """True if the server answered after the attempt; None if there was none."""
    sandbox_problem: str
    """What was wrong with the sandboxes after the attempt, for example that Docker did not answer;
    empty if nothing was."""
    free_bytes: Count
    """The free space on the disk of the sandboxes' folder after the attempt."""


class Attempts(Document):
    """All attempts at an excluded trial, in their order."""

    attempts: tuple[FailedAttempt, ...] = Field(min_length=1)


Seconds = Annotated[float, Field(ge=0, lt=1e9)]


class Outcome(Versioned):
    """A trial whose conversation has ended. Times are UTC.

    Schema 2: `doubt`. Schema 3: `trajectory_sha256`, `log_sha256`, `workflow_run`.
    """

    SCHEMA: ClassVar[int] = 3
    arm: str = Field(pattern=ARM)
    instance: str = Field(pattern=INSTANCE)
    seed: int
    shard: str = Field(pattern=SHARD)
    block: Count
    host: str
    start: Instant
    end: Instant
    attempts: Count
    """The number of attempts, including the last one."""
    server_failures: Count = 0
    """The number of attempts, including the last one, that ended because the server failed."""
    server_build: str
    server: str = ""
    """The log that proves the server's configuration: the file is servers/<server>.log."""
    verified: bool
    exit: Exit
    detail: str
    verdict: Verdict
    cls: Class
    why: str
    steps: Count
    prefill_tokens: Count
    """Prompt tokens that the server computed; tokens from its cache are not counted."""
    prefill_s: Seconds
    answer_tokens: Count
    decode_s: Seconds
    depth_tokens: Count
    """The largest context, prompt and answer together."""
    loops: Count
    """The number of steps at which the last actions were repetitions."""
    malformed: Count
    solve_s: Seconds
    eval_s: Seconds
    applies: bool | None
    fail_to_pass: tuple[Count, Count]
    pass_to_pass: tuple[Count, Count]
    patch_sha256: str
    patch_bytes: Count
    answers_sha256: str = ""
    """The digest of all answers of the model. If two digests are equal, all tokens are equal."""
    doubt: Doubt | None = since(2, None)
    """None if there is no test log with both markers, and in outcomes of kvci 0.1.0."""
    trajectory_sha256: str = since(3, "")
    """The digest of the last line of the conversation, before redaction."""
    log_sha256: str = since(3, "")
    """The digest of the test log, before redaction; empty if there is none."""
    workflow_run: str = since(3, "", pattern=r"^\d{0,19}$")
    """The number of the workflow run that ran the trial; empty outside a workflow."""

    @property
    def waits(self) -> bool:
        """True if the patch is not graded yet. Such a trial is not done."""
        return self.detail == WAITS and self.verdict is Verdict.GRADING_FAILED

    @property
    def trial(self) -> Trial:
        return Trial(self.arm, self.instance, self.seed)

    @property
    def has_patch(self) -> bool:
        """True if the trial has a patch that can be graded again. The patch may be empty."""
        return self.exit not in WITHOUT_PATCH and self.cls is not Class.I0

    @property
    def ungraded(self) -> bool:
        """True if the patch could not be graded because infrastructure or kvci failed."""
        return self.verdict in UNGRADED and self.has_patch

    @model_validator(mode="after")
    def _class_fits_verdict(self) -> Self:
        if (self.cls is Class.OK) != (
            self.verdict is Verdict.RESOLVED and self.cls not in INFRASTRUCTURE | {Class.A12}
        ):
            raise ValueError(
                f"class {titled(self.cls)} and verdict {self.verdict} do not go together"
            )
        return self


def now() -> str:
    """Return the time in UTC, to the second, in ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
