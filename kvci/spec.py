"""What to run, validated and hashed. It knows nothing of the rest of kvci."""

import hashlib
import json
import re
import shlex
import tomllib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from kvci.errors import UserError
from kvci.files import first_problem, sha256_of_file
from kvci.units import Duration, Gigabytes, Mebibytes
from kvci.versioned import Versioned, without_versions

KV_BLOCK_ELEMENTS = {
    "f32": 1,
    "f16": 1,
    "bf16": 1,
    "q8_0": 32,
    "q5_1": 32,
    "q5_0": 32,
    "q4_1": 32,
    "q4_0": 32,
    "iq4_nl": 32,
}
"""KV types that llama-server accepts and the elements of one block (llama.cpp common/arg.cpp)."""

ARM_FLAGS = {
    "-b", "--batch-size", "-ub", "--ubatch-size", "-t", "--threads", "-tb", "--threads-batch",
    "-ngl", "--gpu-layers", "-nkvo", "--no-kv-offload", "-sm", "--split-mode", "-ts",
    "--tensor-split", "-mg", "--main-gpu", "-dev", "--device", "-ot", "--override-tensor",
    "-cmoe", "--cpu-moe", "-ncmoe", "--n-cpu-moe", "-fa", "--flash-attn", "--swa-full",
    "--no-mmap", "--mlock", "--numa", "--poll", "--prio",
}  # fmt: skip
"""Flags that an arm may have: where and in which order it computes. All others are pinned, because
they would change the model, the prompt, the sampling or what is kept of a conversation."""


class Arm(Versioned):
    """One server configuration under test: a KV type and flags that differ from the defaults."""

    k: str
    v: str
    flags: tuple[str, ...] = ()
    allow: tuple[Literal["converted", "cpu"], ...] = ()
    """Kernel paths that this arm may take although the build has a GPU."""

    @classmethod
    def parse(cls, text: str) -> "Arm":
        """Read `K/V [FLAGS...] [allow=PATH]`, for example `f16/f16 -ub 32`."""
        kv, *words = shlex.split(text) or [""]
        k, slash, v = kv.partition("/")
        if not slash:
            raise ValueError(f"'{kv}' is not a KV type; write K/V, for example q8_0/q8_0")
        allow = tuple(word[6:] for word in words if word.startswith("allow="))
        flags = tuple(word for word in words if not word.startswith("allow="))
        return cls.model_validate({"k": k, "v": v, "flags": flags, "allow": allow})

    @field_validator("k", "v")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in KV_BLOCK_ELEMENTS:
            raise ValueError(
                f"'{kind}' is not a KV type of llama-server; use one of "
                + " ".join(KV_BLOCK_ELEMENTS)
            )
        return kind

    @field_validator("flags")
    @classmethod
    def _allowed(cls, flags: tuple[str, ...]) -> tuple[str, ...]:
        for flag in flags:
            number = re.fullmatch(r"-?[\d.,]+", flag)
            if flag.startswith("-") and not number and flag not in ARM_FLAGS:
                raise ValueError(
                    f"an arm may not set {flag}, which is pinned; it may set "
                    + " ".join(sorted(flag for flag in ARM_FLAGS if not flag.startswith("--")))
                )
        return flags

    @property
    def kv_type(self) -> str:
        return f"{self.k}/{self.v}"

    @property
    def id(self) -> str:
        """Of the characters [a-z0-9_+.-]: `q8_0-q8_0`, `f16-f16+ub32`."""
        extra = re.sub(r"[^a-z0-9_.]", "", " ".join(self.flags).lower().replace("--", ""))
        return f"{self.k}-{self.v}" + (f"+{extra}" if extra else "")


class Model(Versioned):
    """The model under test: a file here, or a hub's file known by its sha256."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    path: str | None = None
    package: str | None = None
    """A Python package that carries the file, as `module:function`; the function gives its path."""
    repository: str | None = None
    file: str | None = None
    revision: str | None = None
    """Of the repository; its main branch if absent. The sha256 holds in any case."""
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    weights: str = ""
    chat_template: str | None = None
    """Jinja text, or `chatml`; the model's own if absent."""
    reasoning: Literal["off", "auto"] = "off"

    @field_validator("chat_template")
    @classmethod
    def _jinja(cls, template: str | None) -> str | None:
        """With --jinja llama-server takes every other name for the whole of a template's text."""
        if template and template != "chatml" and "{" not in template:
            raise ValueError(f"'{template}' is no chat template; give Jinja text or chatml")
        return template

    @model_validator(mode="after")
    def _one_source(self) -> "Model":
        sources = [s for s in (self.path, self.package, self.repository) if s]
        if len(sources) != 1:
            raise ValueError("name exactly one of path, package, repository for the model")
        if self.repository and not (self.file and self.sha256):
            raise ValueError("a model of a repository needs its file and sha256")
        return self


DAY_S = 86400.0
"""A sandbox lives longer than a trial, a command or the tests may take."""

EXPERIMENT, SERVER, AGENT, SANDBOX = "Experiment", "Server", "Agent", "Sandbox"
GRADING, CLAIMS, IMAGES, RUN = "Grading", "Claims", "Docker images", "This run"
GROUPS = (EXPERIMENT, SERVER, AGENT, SANDBOX, GRADING, CLAIMS, IMAGES, RUN)
"""Groups of options, in the order of the help."""


def option(
    default: Any = ...,
    *,
    help: str,
    group: str,
    flags: tuple[str, ...] = (),
    metavar: str = "",
    envvar: str = "",
    default_text: str = "",
    **field: Any,
) -> Any:
    """A field that the command line offers, under `flags` or else under its own name.

    `default_text` says in words what an absent value means; all else goes to pydantic's Field.
    """
    shown: dict[str, Any] = {
        "group": group,
        "flags": list(flags),
        "metavar": metavar,
        "envvar": envvar,
        "default_text": default_text,
    }
    return Field(default, description=help, json_schema_extra=shown, **field)


class Rerun(Versioned):
    """What a targeted rerun repeats. It is never compared with anything."""

    of: str
    """The run's id."""
    filter: str
    """Classes and a pattern, in words."""
    instances: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Arm -> those of which its trials are repeated; of an arm that is not named, all."""
    model_sha256: str = ""
    dataset_sha256: str = ""

    def check(self, model_sha256: str, dataset_sha256: str) -> None:
        """Raises UserError where model or dataset is not what the run had."""
        for kind, had, now in (
            ("model", self.model_sha256, model_sha256),
            ("dataset", self.dataset_sha256, dataset_sha256),
        ):
            if had and had != now:
                raise UserError(
                    f"The {kind} is not the one of {self.of}: its sha256 was {had[:12]} and is "
                    f"{now[:12]}; a rerun needs the same."
                )


OUTSIDE = {
    *("shard", "start", "time_budget_s", "out", "dataset", "engine"),
    *("mirror", "disk_reserve_gb", "disk_budget_gb", "pull_workers", "pull_beside"),
    "preflight_first",
}
"""Of a spec what can change no trial: no part of its hash."""
PLACES = ("path", "package", "repository", "file", "revision", "sha256")
"""Of a model where it lies, which is no part of the hash either."""
ELSEWHERE = "of another machine"


class Spec(Versioned):
    """Everything that a run was asked for. Its hash covers what can change a trial, its grading or
    the planned set.

    Each field that the command line offers is declared here with its help text, its group and its
    flag; the command line, the workflow form and the reference of experiment files follow.
    """

    model: Model = option(
        help="A .gguf file, or a file of ci/models.", group=EXPERIMENT, metavar="FILE"
    )
    arms: tuple[Arm, ...] = option(
        help="KV type of an arm, K/V, and its flags: 'q8_0/q8_0', 'f16/f16 -ub 32'. Give one for "
        "each arm; the first is the baseline.",
        group=EXPERIMENT,
        flags=("--kv", "--arm"),
        metavar="K/V",
        min_length=1,
    )
    dataset: str = option(
        help="lite, verified, multilingual, a .jsonl or .parquet file, OWNER/NAME on the Hugging "
        "Face hub, or calibration:split=test,functions=8,count=20.",
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
        help="At most this many instances.",
        group=EXPERIMENT,
        default_text="no limit",
        ge=1,
    )
    context: int = option(65536, help="Context of each slot, in tokens.", group=SERVER, ge=256)
    slots: int = option(
        1, help="Slots of the server: conversations that run at a time.", group=SERVER, ge=1, le=256
    )
    seeds: tuple[int, ...] = option(
        (0,),
        help="Seeds, separated by commas; each instance runs once per seed.",
        group=EXPERIMENT,
        metavar="NUMBERS",
        default_text="0",
    )
    temperature: float = option(
        0.0,
        help="Sampling temperature; several seeds need one above 0.",
        group=EXPERIMENT,
        ge=0.0,
        le=2.0,
    )
    prompt: Literal["bash", "tools"] = option(
        "bash",
        help="The agent's prompt and action protocol: fenced bash blocks, or tool calls.",
        group=AGENT,
    )
    max_steps: int = option(30, help="Answers of the model in one trial.", group=AGENT, ge=1)
    max_tokens: int = option(4096, help="Tokens of one answer.", group=AGENT, ge=1)
    max_total_tokens: int | None = option(
        None,
        help="Tokens of all answers of one trial.",
        group=AGENT,
        default_text="no limit",
        ge=1,
    )
    trial_s: Duration = option(
        3600.0,
        help="Time limit of one trial.",
        group=AGENT,
        flags=("--trial-time",),
        gt=0,
        le=DAY_S,
    )
    command_s: Duration = option(
        60.0,
        help="Time limit of one command.",
        group=AGENT,
        flags=("--command-time",),
        gt=0,
        le=DAY_S,
    )
    test_s: Duration = option(
        1800.0,
        help="Time limit of an instance's tests, at least twice the gold patch's time.",
        group=GRADING,
        flags=("--test-time", "--test-s"),
        gt=0,
        le=DAY_S,
    )
    block_size: int = option(
        4, help="Instances per block, the unit that is resumed.", group=RUN, ge=1
    )
    order_seed: int = option(0, help="Seed of the arms' random order in each block.", group=RUN)
    engine: str = option(
        "auto",
        help="auto, embedded, the path of a llama-server, or a URL (unverified: gives no row).",
        group=SERVER,
        metavar="ENGINE",
    )
    gpu_layers: int = option(99, help="Layers of the model on the GPU.", group=SERVER)
    threads: int | None = option(
        None,
        help="CPU threads of the server.",
        group=SERVER,
        default_text="llama-server's own default",
        ge=1,
    )
    sandbox: Literal["auto", "bwrap", "docker"] = option(
        "auto",
        help="Where commands run: bubblewrap for generated instances, Docker for images.",
        group=SANDBOX,
    )
    memory_mib: Mebibytes = option(
        4096, help="Memory of one trial's sandbox.", group=SANDBOX, flags=("--memory",), ge=64
    )
    processes: int = option(256, help="Processes of one trial's sandbox.", group=SANDBOX, ge=8)
    cpus: float = option(2.0, help="CPUs of one trial's sandbox.", group=SANDBOX, gt=0)
    primary: Literal[
        "resolved", "no_loop", "well_formed", "patched", "no_overflow", "applies", "tests_flipped"
    ] = option(
        "resolved",
        help="The one endpoint that claims are about: resolved, no_loop, well_formed, patched, "
        "no_overflow, applies or tests_flipped.",
        group=CLAIMS,
        metavar="ENDPOINT",
    )
    rerun: Rerun | None = None
    margin: float | None = option(
        None,
        help="Non-inferiority margin, e.g. 0.05 for five points.",
        group=CLAIMS,
        default_text="no non-inferiority claim",
        gt=0,
        lt=1,
    )
    alpha: float = option(0.05, help="One-sided error rate of a claim.", group=CLAIMS, gt=0, lt=0.5)
    grade_network: bool = option(
        False, help="Give grading a network, for tests that need one.", group=GRADING
    )
    mirror: str | None = option(
        None,
        help="A registry to pull images from first.",
        group=IMAGES,
        envvar="KVCI_MIRROR",
        metavar="HOST",
        default_text="each image's own registry",
        pattern=r"^[\w.-]+(:\d+)?(/[\w.-]+)*$",
    )
    disk_reserve_gb: Gigabytes = option(
        10.0,
        help="Disk space to keep free on Docker's disk.",
        group=IMAGES,
        flags=("--disk-reserve",),
        envvar="KVCI_DISK_RESERVE",
        ge=0,
    )
    disk_budget_gb: Gigabytes | None = option(
        None,
        help="Disk space that pulled images may take; bytes that images share are not counted.",
        group=IMAGES,
        flags=("--disk-budget",),
        envvar="KVCI_DISK_BUDGET",
        default_text="all but the reserve",
        gt=0,
    )
    preflight_first: bool = option(
        False,
        help="Grade the gold patch and the base of every instance before any trial.",
        group=GRADING,
        flags=("--validate",),
    )
    pull_workers: int = option(4, help="Images pulled at a time.", group=IMAGES, ge=1)
    pull_beside: bool = option(
        False,
        help="Pull images while trials run.",
        group=IMAGES,
        flags=("--pull-during-trials", "--pull-beside"),
    )
    shard: str = option(
        "1/1", help="Run only the I-th of N parts of the instances.", group=RUN, metavar="I/N"
    )
    start: str | None = option(
        None,
        help="When the run began, in UTC; give all shards the same, e.g. 2026-11-30T12:00:00Z.",
        group=RUN,
        metavar="TIME",
        default_text="now",
        pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$",
    )
    time_budget_s: Duration | None = option(
        None,
        help="Start no new block that would end after this time.",
        group=RUN,
        flags=("--time-budget",),
        default_text="no budget",
        gt=0,
    )
    out: str = option(
        "runs", help="The folder of run folders.", group=RUN, envvar="KVCI_RUNS", metavar="FOLDER"
    )

    @field_validator("arms", mode="before")
    @classmethod
    def _arms(cls, arms: Any) -> Any:
        return [Arm.parse(arm) if isinstance(arm, str) else arm for arm in arms]

    @field_validator("filter")
    @classmethod
    def _regular_expression(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"'{pattern}' is not a regular expression: {error}") from None
        return pattern

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
            raise ValueError("two arms are the same; every arm must differ from the others")
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            raise ValueError("seeds must be given and differ from each other")
        if len(self.seeds) > 1 and self.temperature == 0:
            raise ValueError("several seeds at temperature 0 repeat one trial; give a temperature")
        return self

    @property
    def verified(self) -> bool:
        """A server log will prove the arms; trials of other engines can never become a row."""
        return not self.engine.startswith(("replay:", "http:", "https:"))

    @property
    def baseline(self) -> Arm:
        return self.arms[0]

    def placeless(self) -> "Spec":
        """The same without what each machine says for itself: what is executed, whom it asks, and
        what may be taken of its disk and time. A binary's spec keeps its hash, and the embedded
        engine's."""
        names = OUTSIDE - {"dataset", "shard", "start"}
        own: dict[str, Any] = {name: Spec.model_fields[name].default for name in names}
        own |= {"engine": "embedded"} if self.engine == "embedded" else {}
        own["model"] = self.model.model_copy(update=dict.fromkeys(PLACES) | {"path": ELSEWHERE})
        return self.model_copy(update=own)

    def of_arm(self, arm: str, names: Iterable[str]) -> tuple[str, ...]:
        """Of these instances those that the arm runs: all, but in a rerun."""
        again = self.rerun.instances.get(arm) if self.rerun else None
        return tuple(name for name in names if again is None or name in again)

    def trials_of_arms(self, names: Collection[str]) -> dict[str, int]:
        """How many trials of these instances each arm has."""
        seeds = len(self.seeds)
        return {arm.id: seeds * len(self.of_arm(arm.id, names)) for arm in self.arms}

    @property
    def dataset_name(self) -> str:
        name = self.dataset.partition(":")[0].partition("@")[0]
        stem = Path(name).stem if name else "data"
        return re.sub(r"[^a-z0-9.-]+", "-", stem.lower()).strip("-") or "data"

    def identity(self, model_sha256: str, dataset_sha256: str) -> dict[str, Any]:
        """What can change a trial, its grading or the planned set; its hash is the spec's.

        Where the model and the dataset lie does not count; what they hold does.
        """
        asked: dict[str, Any] = self.model_dump(mode="json", exclude=OUTSIDE)
        for place in PLACES:
            asked["model"].pop(place)
        asked |= {"model_sha256": model_sha256, "dataset_sha256": dataset_sha256}
        kind, _, place = self.engine.partition(":")
        asked["engine"] = kind if kind in {"embedded", "replay", "http", "https"} else "binary"
        if kind == "replay":
            asked["engine"] += f" {sha256_of_file(Path(place))}"
        identity: dict[str, Any] = without_versions(asked)
        return identity

    def hash(self, model_sha256: str, dataset_sha256: str) -> str:
        asked = self.identity(model_sha256, dataset_sha256)
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def load(path: Path | None, overrides: dict[str, Any]) -> Spec:
    """The spec of a TOML file with the flags laid over it. Raises UserError."""
    asked: dict[str, Any] = _by_field(_toml(path), str(path)) if path else {}
    model = asked.get("model")
    if isinstance(model, str):
        asked["model"] = _model(model, path.parent if path else Path())
    given = {key: value for key, value in overrides.items() if value is not None}
    if isinstance(given.get("model"), str):
        given["model"] = _model(given["model"], Path())
    try:
        return Spec.model_validate(asked | given)
    except ValidationError as error:
        where = str(path) if path and not given else "The spec"
        raise UserError(f"{where} is not valid: {first_problem(error)}.") from None


def other_names() -> dict[str, str]:
    """The names that an experiment file may use besides the fields' own: `time_budget` is
    `time_budget_s`."""
    found = {}
    for name, field in Spec.model_fields.items():
        shown = field.json_schema_extra
        flags = shown.get("flags") if isinstance(shown, dict) else None
        if isinstance(flags, list) and flags and name != "arms":
            found[str(flags[0]).removeprefix("--").replace("-", "_")] = name
    return found


def _by_field(asked: dict[str, Any], where: str) -> dict[str, Any]:
    """The same under the fields' own names. Raises UserError if a field is given twice."""
    names, found = other_names(), dict[str, Any]()
    for name, value in asked.items():
        field = names.get(name, name)
        if field in found:
            raise UserError(f"{where} gives {name} and {field}, which are the same; keep one.")
        found[field] = value
    return found


def without_model(asked: dict[str, Any]) -> Spec:
    """A spec for what only looks at a dataset's instances. Raises UserError."""
    return load(None, {"model": {"name": "none", "path": "none"}, "arms": ["f16/f16"]} | asked)


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); see ci/experiments for examples."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}.") from None


def _model(text: str, beside: Path) -> dict[str, Any]:
    """A model given as a .toml of ci/models or as a .gguf file."""
    path = Path(text) if Path(text).exists() else beside / text
    if path.suffix == ".toml":
        return _toml(path)
    if not path.exists():
        raise UserError(f"The model {text} does not exist; give a .gguf file or a ci/models file.")
    name = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("-._") or "model"
    return {"name": name, "path": str(path.resolve())}
