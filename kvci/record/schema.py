"""The schema of `ci/results/<row id>.json`: one arm of one run, or a row from before kvci."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from kvci.files import Document
from kvci.problems import newer
from kvci.rundir.documents import ARM, INSTANCE, RUN_ID, Instant, Outcome
from kvci.serve.effective import Effective
from kvci.spec import Arm, Model, Primary, Rerun, Spec, hash_of
from kvci.taxonomy import INFRASTRUCTURE, Class

ROW_ID = r"^(\.{3})?[A-Za-z0-9][A-Za-z0-9._+-]{0,249}$"
"""The pattern of a row id. It is also a file name. An id that its owner shortened starts with dots.
"""


class RecordedTrial(Outcome):
    """A trial of a run. A superseded trial stays in the record, and no figure counts it."""

    superseded: bool = False


class EvidenceFiles(Document):
    """The run's archive, and the sha256 of each redacted file of the arm."""

    where: str = ""
    """URL of the archive; empty until it is published."""
    sha256: str = ""
    """Digest of the archive."""
    files: dict[str, str]
    """Path in the run directory -> sha256."""


class RecordedModel(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    weights: str


class RecordedSpec(BaseModel):
    """The fields of a record's specification that kvci reads.

    Other fields of a specification stay in it, and its hash includes them. Records of earlier
    versions lack some of them. A field that this kvci does not know is refused: it may change what
    a trial means. kvci computes with the record's own values, so each number must be written as
    a number.
    """

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)
    model: RecordedModel
    arms: tuple[Arm, ...] = Field(min_length=1)
    seeds: tuple[Annotated[int, Field(strict=True)], ...] = Field(min_length=1)
    model_sha256: str
    dataset_sha256: str
    primary: Primary
    alpha: float = Field(gt=0, lt=1, strict=True)
    margin: Annotated[float, Field(gt=0, lt=1, strict=True)] | None
    rerun: Rerun | None = None

    @model_validator(mode="after")
    def _has_only_known_fields(self) -> Self:
        of_run = {"model_sha256", "dataset_sha256"}
        for document, names in ((self, Spec.names() | of_run), (self.model, Model.names())):
            if unknown := sorted((document.model_extra or {}).keys() - names):
                raise newer(f"its spec has the field {unknown[0]}, which this kvci does not know")
        return self


RunKey = tuple[str, str, str]
"""A run's id, its start, and the hash of its specification."""


class Record(Document):
    """One arm of one run. Every figure of the arm's row is computed from its record."""

    schema_version: Literal[1, 2, 3, 4] = 4
    """Version 2: each trial names its server's log and has a digest of the model's answers.
    Version 3: the effective configuration has the memory of the weights and of computing.
    Version 4: the evidence is one archive, with the digests of the redacted files."""
    kind: Literal["run"] = "run"
    row_id: str = Field(pattern=ROW_ID)
    run_id: str = Field(pattern=RUN_ID)
    start: Instant
    dataset: str
    arm: str = Field(pattern=ARM)
    position: int = Field(ge=0)
    """The arm's index in the specification; 0 is the baseline."""
    spec: dict[str, Any]
    """The specification; `spec_sha256` is its hash."""
    spec_sha256: str
    host: str
    gpu: str
    kvci: str
    python: str
    sandbox: str
    planned: tuple[Annotated[str, Field(pattern=INSTANCE)], ...]
    effective: tuple[Effective, ...]
    """The different configurations that the servers' logs prove."""
    trials: tuple[RecordedTrial, ...]
    evidence: EvidenceFiles

    @model_validator(mode="after")
    def _fits_its_spec(self) -> Self:
        if hash_of(self.spec) != self.spec_sha256:
            raise ValueError("the spec does not have the hash that the record gives")
        spec = RecordedSpec.model_validate(self.spec)
        if [arm.id for arm in spec.arms][self.position : self.position + 1] != [self.arm]:
            raise ValueError(f"{self.arm} is not the spec's arm {self.position}")
        counted = Counter((trial.instance, trial.seed) for trial in self.counted)
        if twice := [name for (name, _), count in counted.items() if count > 1]:
            raise ValueError(f"{twice[0]} is counted twice")
        planned, seeds = set(self.planned), set(spec.seeds)
        for trial in self.trials:
            asked = trial.instance in planned and trial.seed in seeds
            if trial.arm != self.arm or not asked:
                raise ValueError(f"{trial.trial} was never planned")
        return self

    @property
    def rerun(self) -> str:
        """The text "FILTER of RUN" for a targeted rerun; empty for any other run."""
        repeated = self.spec.get("rerun")
        return f"{repeated['filter']} of {repeated['of']}" if repeated else ""

    @property
    def counted(self) -> list[RecordedTrial]:
        return [trial for trial in self.trials if not trial.superseded]

    @property
    def total(self) -> int:
        """The number of planned trials: instances times seeds."""
        return len(self.planned) * len(self.spec["seeds"])

    @property
    def key(self) -> RunKey:
        """The key of the run: all records with this key are arms of the run."""
        return self.run_id, self.start, self.spec_sha256

    @property
    def complete(self) -> bool:
        """True if the record has all planned trials of the arm, from all shards."""
        return len(self.counted) == self.total and self._shards_complete

    @property
    def shards(self) -> int:
        """The run's number of shards; each trial states it."""
        return max((int(trial.shard.partition("/")[2]) for trial in self.counted), default=1)

    @property
    def _shards_complete(self) -> bool:
        present = {trial.shard for trial in self.counted}
        return present == {f"{number}/{self.shards}" for number in range(1, self.shards + 1)}

    @property
    def submitted(self) -> int:
        return sum(trial.patch_bytes > 0 for trial in self.counted)

    @property
    def resolved(self) -> int:
        return sum(trial.cls is Class.OK for trial in self.counted)

    @property
    def errors(self) -> int:
        return sum(trial.cls in INFRASTRUCTURE for trial in self.counted)

    @property
    def kv(self) -> str:
        """The KV type and the flags of the arm."""
        arm = self.spec["arms"][self.position]
        return " ".join([f"{arm['k']}/{arm['v']}", *arm.get("flags", ())])

    @property
    def model(self) -> str:
        """The model's name and its weights' quantization."""
        model = self.spec["model"]
        return f"{model['name']} ({model['weights']})" if model["weights"] else str(model["name"])


class ImportedTrial(Document):
    """A trial of an earlier tool, with the values that its run folder shows."""

    instance: str
    exit: str
    """The tool's own exit status."""
    classes: tuple[Class, ...] = Field(min_length=1)
    """The class, or all classes that the evidence allows."""
    why: str
    steps: int
    answer_tokens: int
    depth_tokens: int
    loops: int
    malformed: int
    patch_sha256: str
    patch_bytes: int
    overflowed: bool | None = None
    """True if the context was full; None if that is not known, as in schema 1 and 2."""
    exception_as_patch: bool
    """True if the tool stored the text of an exception as the patch."""

    @property
    def label(self) -> str:
        """The class; or the possible classes, and why the evidence does not decide between them."""
        if len(self.classes) == 1:
            return str(self.classes[0])
        if self.classes == (Class.A8, Class.A9, Class.A11A, Class.A11B):
            return "A8-A11 (unsplit)"
        return "/".join(self.classes) + f" ({self.why})"

    @property
    def valid(self) -> bool:
        """True if no possible class is an infrastructure failure."""
        return not INFRASTRUCTURE & set(self.classes)

    @property
    def resolved(self) -> bool:
        return self.classes == (Class.OK,)


class Derived(Document):
    """The values that kvci read from the folder of an earlier run."""

    kv: str
    total: int
    settings: dict[str, tuple[str, ...]]
    """The settings that must be equal in comparable runs: setting -> all its values in the run."""
    trials: tuple[ImportedTrial, ...]


class Imported(Document):
    """A row from before kvci: its owner's text, and the values that kvci read from the run."""

    schema_version: Literal[1, 2, 3] = 3
    """Version 2: `derived` has values if the earlier run's folder was read.
    Version 3: the trials state whether the context was full."""
    kind: Literal["imported"] = "imported"
    row_id: str = Field(pattern=ROW_ID)
    table: Literal["log", "reruns"]
    reported: dict[str, str]
    """Column -> the owner's text."""
    derived: Derived | None = None


AnyRecord = Annotated[Record | Imported, Field(discriminator="kind")]
ADAPTER: TypeAdapter[Record | Imported] = TypeAdapter(AnyRecord)


def by_run(records: Iterable[Record]) -> dict[RunKey, list[Record]]:
    """Return run key -> records of the run, in the given order."""
    runs: dict[RunKey, list[Record]] = defaultdict(list)
    for record in records:
        runs[record.key].append(record)
    return runs


def finished(records: Iterable[Record]) -> set[RunKey]:
    """Return the keys of the runs that have a complete record of every arm."""
    return {
        key
        for key, arms in by_run(records).items()
        if all(arm.complete for arm in arms)
        and {arm.position for arm in arms} == set(range(len(arms[0].spec["arms"])))
    }
