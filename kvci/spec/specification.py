"""The specification of a run: its fields, their limits, and its hash."""

import json
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import field_validator, model_validator

from kvci.files import sha256_of, sha256_of_file
from kvci.spec.arm import Arm
from kvci.spec.option import (
    AGENT,
    CLAIMS,
    EXPERIMENT,
    GRADING,
    IMAGES,
    RUN,
    SANDBOX,
    SERVER,
    option,
)  # fmt: skip
from kvci.spec.targeted import Rerun
from kvci.spec.tested_model import Model
from kvci.units import Duration, Gigabytes, Mebibytes
from kvci.versioned import Versioned, without_versions

DAY_S = 86400.0
"""The maximum seconds of a trial, a command or the tests. A sandbox exists for longer."""
NOT_HASHED = {
    *("shard", "start", "time_budget_s", "out", "dataset", "engine"),
    *("mirror", "disk_reserve_gb", "disk_budget_gb", "pull_workers", "pull_beside"),
    *("preflight_first", "grade_workers"),
}
"""Fields that are not in the hash. `identity` adds the content of the dataset and the kind of the
engine to the hash; the other fields cannot change a trial."""
FOUND = ("engine", "sandbox", "model_sha256", "dataset_sha256")
"""Fields of an identity that only the machine of the run knows."""
PLACES = ("path", "package", "repository", "file", "revision", "sha256")
"""A model's fields that say where its file is. They are not in the hash either."""
ELSEWHERE = "of another machine"
"""The model's path in a published specification."""


Primary = Literal[
    "resolved", "no_loop", "well_formed", "patched", "no_overflow", "applies", "tests_flipped"
]
"""The endpoints that the claims may be about."""


class Spec(Versioned):
    """All settings of a run. The hash covers every setting that can change a trial, its grading or
    the set of planned trials.

    Each field that the command line offers is declared here with its help text, its group and its
    flag. The command line, the workflow's `options` and the reference of experiment files read
    these declarations.
    """

    SCHEMA: ClassVar[int] = 2

    model: Model = option(
        help="The model: a .gguf file, or a .toml file of ci/models.",
        group=EXPERIMENT,
        metavar="FILE",
    )
    arms: tuple[Arm, ...] = option(
        help="One arm: its KV type, written K/V, and optional flags of llama-server, for example "
        "'q8_0/q8_0' or 'f16/f16 -ub 32'. Give one for each arm; the first arm is the baseline.",
        group=EXPERIMENT,
        flags=("--kv", "--arm"),
        metavar="K/V",
        min_length=1,
    )
    dataset: str = option(
        help="The dataset: lite, verified, multilingual, a .jsonl or .parquet file, OWNER/NAME on "
        "the Hugging Face hub, or kvci's own, such as calibration:split=test,functions=8,count=20.",
        group=EXPERIMENT,
        metavar="NAME",
    )
    filter: str = option(
        "",
        help="Only instances whose id matches this regular expression.",
        group=EXPERIMENT,
        metavar="REGEX",
        default_text="every instance",
    )
    instances: tuple[str, ...] = option(
        (),
        help="Only these instance ids, separated by commas.",
        group=EXPERIMENT,
        metavar="IDS",
        default_text="every instance",
    )
    limit: int | None = option(
        None,
        help="Maximum number of instances.",
        group=EXPERIMENT,
        default_text="no limit",
        ge=1,
    )
    context: int = option(65536, help="Context size of each slot, in tokens.", group=SERVER, ge=256)
    slots: int = option(
        1,
        help="Number of the server's slots. Each slot runs one conversation at a time.",
        group=SERVER,
        ge=1,
        le=256,
    )
    seeds: tuple[int, ...] = option(
        (0,),
        help="Random seeds, separated by commas; each instance runs once per seed.",
        group=EXPERIMENT,
        metavar="NUMBERS",
        default_text="0",
    )
    temperature: float = option(
        0.0,
        help="Sampling temperature; several seeds need a temperature above 0.",
        group=EXPERIMENT,
        ge=0.0,
        le=2.0,
    )
    prompt: Literal["bash", "tools"] = option(
        "bash",
        help="Prompt and action protocol of the agent: bash is fenced bash blocks, tools is tool "
        "calls.",
        group=AGENT,
    )
    max_steps: int = option(30, help="Maximum number of answers in one trial.", group=AGENT, ge=1)
    max_tokens: int = option(
        4096, help="Maximum number of tokens in one answer.", group=AGENT, ge=1
    )
    max_total_tokens: int | None = option(
        None,
        help="Maximum number of tokens in all answers of one trial.",
        group=AGENT,
        default_text="no limit",
        ge=1,
    )
    trial_s: Duration = option(
        3600.0,
        help="Maximum time of one trial; a number without a unit is in seconds.",
        group=AGENT,
        flags=("--trial-time",),
        gt=0,
        le=DAY_S,
    )
    command_s: Duration = option(
        60.0,
        help="Maximum time of one shell command; a number without a unit is in seconds.",
        group=AGENT,
        flags=("--command-time",),
        gt=0,
        le=DAY_S,
    )
    test_s: Duration = option(
        1800.0,
        help="Maximum time of an instance's tests; a number without a unit is in seconds. "
        "If the gold patch's tests need more than half of it, the maximum becomes twice that "
        "time.",
        group=GRADING,
        flags=("--test-time", "--test-s"),
        gt=0,
        le=DAY_S,
    )
    block_size: int = option(
        4,
        help="Number of instances in a block. All arms run a block together; a stopped run is "
        "resumed block by block.",
        group=RUN,
        ge=1,
    )
    order_seed: int = option(
        0, help="Seed of the random order in which the arms run in each block.", group=RUN
    )
    engine: str = option(
        "auto",
        help="The server: auto, embedded, the path of a llama-server, or a URL. auto is the "
        "llama-server that KVCI_LLAMA_SERVER names, else llama-server on PATH, else the embedded "
        "engine. Trials of a URL are unverified and give no row.",
        group=SERVER,
        metavar="ENGINE",
    )
    gpu_layers: int = option(
        99, help="Maximum number of the model's layers on the GPU.", group=SERVER
    )
    threads: int | None = option(
        None,
        help="Number of CPU threads of the server.",
        group=SERVER,
        default_text="llama-server's own default",
        ge=1,
    )
    sandbox: Literal["auto", "bwrap", "docker"] = option(
        "auto",
        help="Where the model's commands run: bwrap is bubblewrap, for generated instances; docker "
        "is Docker, for instances with an image. auto is the first that can run the instances.",
        group=SANDBOX,
    )
    memory_mib: Mebibytes = option(
        4096,
        help="Maximum memory of one trial's sandbox; a number without a unit is in MiB.",
        group=SANDBOX,
        flags=("--memory",),
        ge=64,
    )
    processes: int = option(
        256, help="Maximum number of processes in one trial's sandbox.", group=SANDBOX, ge=8
    )
    cpus: float = option(
        2.0, help="Maximum number of CPUs of one trial's sandbox.", group=SANDBOX, gt=0
    )
    primary: Primary = option(
        "resolved",
        help="The endpoint of the claims. resolved: the patch resolves the instance. no_loop: no "
        "action, and no cycle of two or three actions, occurs three times in a row. well_formed: "
        "each answer has exactly one action. patched: the patch is not empty. no_overflow: the "
        "context was never full. applies: the patch applies. tests_flipped: all tests that the "
        "gold patch repairs pass.",
        group=CLAIMS,
        metavar="ENDPOINT",
    )
    rerun: Rerun | None = None
    margin: float | None = option(
        None,
        help="Non-inferiority margin, as a share: 0.05 is five percentage points.",
        group=CLAIMS,
        default_text="no non-inferiority claim",
        gt=0,
        lt=1,
    )
    alpha: float = option(
        0.05,
        help="One-sided error rate of a claim, as a share: 0.05 is 5%.",
        group=CLAIMS,
        gt=0,
        lt=0.5,
    )
    grade_network: bool = option(
        False, help="Give the grading sandbox a network, for tests that need one.", group=GRADING
    )
    mirror: str | None = option(
        None,
        help="Registry that kvci tries first for each image.",
        group=IMAGES,
        envvar="KVCI_MIRROR",
        metavar="HOST",
        default_text="each image's own registry",
    )
    disk_reserve_gb: Gigabytes = option(
        10.0,
        help="Minimum free space on Docker's disk; a number without a unit is in GB.",
        group=IMAGES,
        flags=("--disk-reserve",),
        envvar="KVCI_DISK_RESERVE",
        ge=0,
    )
    disk_budget_gb: Gigabytes | None = option(
        None,
        help="Maximum disk space of the pulled images; a number without a unit is in GB. kvci "
        "evicts images that it no longer needs. Data that images share is not counted.",
        group=IMAGES,
        flags=("--disk-budget",),
        envvar="KVCI_DISK_BUDGET",
        default_text="all space except the reserve",
        gt=0,
    )
    preflight_first: bool = option(
        False,
        help="Grade the gold patch and the base commit of all instances before the first trial. "
        "Without this option, kvci grades them too, but block by block.",
        group=GRADING,
        flags=("--validate",),
    )
    grade_workers: int | None = option(
        None,
        help="Maximum number of patches that are graded at the same time.",
        group=GRADING,
        envvar="KVCI_GRADE_WORKERS",
        default_text="one for each core, as far as memory allows",
        ge=1,
        since=2,
    )
    pull_workers: int = option(
        4, help="Maximum number of images that are pulled at the same time.", group=IMAGES, ge=1
    )
    pull_beside: bool = option(
        False,
        help="Pull images while trials run.",
        group=IMAGES,
        flags=("--pull-during-trials", "--pull-beside"),
    )
    shard: str = option(
        "1/1", help="Run only part I of N parts of the instances.", group=RUN, metavar="I/N"
    )
    start: str | None = option(
        None,
        help="Time at which the run began, in UTC, for example 2026-11-30T12:00:00Z. Give all "
        "shards the same time.",
        group=RUN,
        metavar="TIME",
        default_text="now",
    )
    time_budget_s: Duration | None = option(
        None,
        help="Time for this run; a number without a unit is in seconds. kvci starts no "
        "block that it expects to end later.",
        group=RUN,
        flags=("--time-budget",),
        default_text="no budget",
        gt=0,
    )
    out: str = option(
        "runs",
        help="Folder that contains the run folders.",
        group=RUN,
        envvar="KVCI_RUNS",
        metavar="FOLDER",
    )

    @field_validator("arms", mode="before")
    @classmethod
    def _arms(cls, arms: Any) -> Any:
        if not isinstance(arms, list | tuple):
            raise ValueError(f"{arms!r} is not a list; write one, as in ['f16/f16', 'q8_0/q8_0']")
        return [Arm.parse(arm) if isinstance(arm, str) else arm for arm in arms]

    @field_validator("filter")
    @classmethod
    def _regular_expression(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"'{pattern}' is not a regular expression: {error}") from None
        return pattern

    @field_validator("start")
    @classmethod
    def _start(cls, start: str | None) -> str | None:
        if start and not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", start):
            raise ValueError(f"'{start}' is not a time in UTC; write it as 2026-11-30T12:00:00Z")
        return start

    @field_validator("mirror")
    @classmethod
    def _mirror(cls, mirror: str | None) -> str | None:
        if mirror and not re.fullmatch(r"[\w.-]+(:\d+)?(/[\w.-]+)*", mirror):
            raise ValueError(f"'{mirror}' is not a registry; write HOST or HOST:PORT/FOLDER")
        return mirror

    @field_validator("shard")
    @classmethod
    def _shard(cls, shard: str) -> str:
        match = re.fullmatch(r"(\d+)/(\d+)", shard)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"'{shard}' is not a shard; write I/N with I from 1 to N")
        return shard

    @model_validator(mode="after")
    def _whole(self) -> "Spec":
        ids = [arm.id for arm in self.arms]
        if len(set(ids)) != len(ids):
            raise ValueError("two arms are the same; remove one of them")
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            raise ValueError("seeds must be given and differ from each other")
        if len(self.seeds) > 1 and self.temperature == 0:
            raise ValueError("several seeds at temperature 0 repeat one trial; give one above 0")
        return self

    @property
    def verified(self) -> bool:
        """True if a server's log can prove the arms. Without this proof, no trial becomes a row."""
        return not self.engine.startswith(("replay:", "http:", "https:"))

    @property
    def baseline(self) -> Arm:
        return self.arms[0]

    def without_places(self) -> "Spec":
        """Return the specification without this machine's paths, registry, disk and time budget.

        The hash stays the same.
        """
        names = NOT_HASHED - {"dataset", "shard", "start"}
        fields = type(self).model_fields
        own: dict[str, Any] = {
            name: fields[name].get_default(call_default_factory=True)
            for name in names & fields.keys()
        }
        own |= {"engine": "embedded"} if self.engine == "embedded" else {}
        own["model"] = self.model.model_copy(update=dict.fromkeys(PLACES) | {"path": ELSEWHERE})
        found = self.model_copy(update=own)
        found._removed = self._removed | {
            name: self.REMOVED[name] for name in names & self.REMOVED.keys()
        }
        return found

    def instances_of(self, arm: str, names: Iterable[str]) -> tuple[str, ...]:
        """Return the instances of `names` that an arm runs; in a rerun, it may not run all."""
        again = self.rerun.instances.get(arm) if self.rerun else None
        return tuple(name for name in names if again is None or name in again)

    def trials_of_arms(self, names: Collection[str]) -> dict[str, int]:
        """Return arm id -> number of the arm's trials on the instances of `names`."""
        seeds = len(self.seeds)
        return {arm.id: seeds * len(self.instances_of(arm.id, names)) for arm in self.arms}

    @property
    def dataset_name(self) -> str:
        """The dataset's name in row ids, without its options: `lite`, `calibration`."""
        name = self.dataset.partition(":")[0].partition("@")[0]
        stem = Path(name).stem if name else "data"
        return re.sub(r"[^a-z0-9.-]+", "-", stem.lower()).strip("-") or "data"

    def identity(self, model_sha256: str, dataset_sha256: str) -> dict[str, Any]:
        """Return every setting that can change a trial, its grading or the set of planned trials.

        The values are JSON values. The model and the dataset are in it by the hash of their
        content, without their place.
        """
        asked: dict[str, Any] = self.model_dump(mode="json", exclude=NOT_HASHED)
        for place in PLACES:
            asked["model"].pop(place, None)
        asked |= {"model_sha256": model_sha256, "dataset_sha256": dataset_sha256}
        kind, _, place = self.engine.partition(":")
        for name in NOT_HASHED & self.REMOVED.keys():  # a removed field ignores `exclude`
            asked.pop(name, None)
        asked["engine"] = kind if kind in {"embedded", "replay", "http", "https"} else "binary"
        if kind == "replay":
            asked["engine"] += f" {sha256_of_file(Path(place))}"
        identity: dict[str, Any] = without_versions(asked)
        return identity

    @property
    def asked(self) -> str:
        """The digest of what a person asked for: 32 hexadecimal digits, for the name of a job.

        It leaves out what only the machine of the run knows.
        """
        asked = self.identity("", "")
        for name in FOUND:
            asked.pop(name)
        return hash_of(asked | {"dataset": self.dataset})[:32]

    def hash(self, model_sha256: str, dataset_sha256: str) -> str:
        """Return the sha256 of the identity."""
        return hash_of(self.identity(model_sha256, dataset_sha256))


def hash_of(identity: dict[str, Any]) -> str:
    """Return the sha256 of an identity's canonical JSON."""
    return sha256_of(json.dumps(identity, sort_keys=True).encode())
