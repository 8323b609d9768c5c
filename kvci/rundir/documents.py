"""The documents of a run directory: what was found, what a trial left, what a patch got."""

from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from kvci.files import Document
from kvci.taxonomy import INFRASTRUCTURE, Class, Exit, Verdict

RUN_ID = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,199}$"
ARM, INSTANCE = r"^[a-z0-9_+.-]{1,200}$", r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
SHARD = r"^[1-9]\d{0,3}/[1-9]\d{0,3}$"
WITHOUT_PATCH = {Exit.NOT_STARTED, Exit.SANDBOX_FAILED, Exit.SERVER_FAILED, Exit.REQUEST_FAILED}
WITHOUT_PATCH |= {Exit.KVCI_FAILED}
"""A conversation that ended so left no patch."""
UNGRADED = {Verdict.GRADING_FAILED, Verdict.NOT_GRADED}
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


class Graded(Document):
    """A verdict with its evidence; counts are passed tests of all tests."""

    verdict: Verdict
    detail: str = ""
    applies: bool | None = None
    fail_to_pass: tuple[int, int] = (0, 0)
    pass_to_pass: tuple[int, int] = (0, 0)
    eval_s: float = 0.0


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

    @property
    def has_patch(self) -> bool:
        """There is a patch to grade again, if only an empty one."""
        return self.exit not in WITHOUT_PATCH and self.cls is not Class.I0

    @property
    def ungraded(self) -> bool:
        """Infrastructure, or a fault of kvci's own, kept its patch from being graded."""
        return self.verdict in UNGRADED and self.has_patch

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if (self.cls is Class.OK) != (
            self.verdict is Verdict.RESOLVED and self.cls not in INFRASTRUCTURE | {Class.A12}
        ):
            raise ValueError(f"class {self.cls} and verdict {self.verdict} do not go together")
        return self


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
