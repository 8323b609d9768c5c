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
    """All that was asked for. Its hash covers what can change a trial or the planned set."""

    model: Model
    arms: tuple[Arm, ...] = Field(min_length=1)
    dataset: str
    filter: str = ""
    instances: tuple[str, ...] = ()
    """Ids; all of the dataset's if none are given."""
    limit: int | None = Field(None, ge=1)
    context: int = Field(65536, ge=256)
    """Tokens of context per slot."""
    slots: int = Field(1, ge=1, le=256)
    seeds: tuple[int, ...] = (0,)
    temperature: float = Field(0.0, ge=0.0, le=2.0)
    prompt: Literal["bash", "tools"] = "bash"
    """The prompt's file name in kvci/agent/prompts, which names the action protocol too."""
    max_steps: int = Field(30, ge=1)
    max_tokens: int = Field(4096, ge=1)
    """Tokens per answer."""
    max_total_tokens: int | None = Field(None, ge=1)
    trial_s: float = Field(3600.0, gt=0, le=DAY_S)
    command_s: float = Field(60.0, gt=0, le=DAY_S)
    test_s: float = Field(1800.0, gt=0, le=DAY_S)
    block_size: int = Field(4, ge=1)
    order_seed: int = 0
    engine: str = "auto"
    """auto, embedded, replay:SCRIPT, an http URL (unverified), or the path of a llama-server."""
    gpu_layers: int = 99
    threads: int | None = Field(None, ge=1)
    sandbox: Literal["auto", "bwrap", "docker"] = "auto"
    memory_mib: int = Field(4096, ge=64)
    """Of one trial's sandbox."""
    processes: int = Field(256, ge=8)
    cpus: float = Field(2.0, gt=0)
    primary: Literal[
        "resolved", "no_loop", "well_formed", "patched", "no_overflow", "applies", "tests_flipped"
    ] = "resolved"
    """The one endpoint of which something is claimed."""
    rerun: Rerun | None = None
    margin: float | None = Field(None, gt=0, lt=1)
    alpha: float = Field(0.05, gt=0, lt=0.5)
    grade_network: bool = False
    """Grading has a network; for tests that need one."""
    mirror: str | None = Field(None, pattern=r"^[\w.-]+(:\d+)?(/[\w.-]+)*$")
    """A registry that is asked for images in place of their own."""
    disk_reserve_gb: float = Field(10.0, ge=0)
    """Of Docker's disk, never used; 10^9 bytes."""
    disk_budget_gb: float | None = Field(None, gt=0)
    """What images of ours may take there; whatever the reserve leaves if absent."""
    preflight_first: bool = False
    """Every instance's preflight before any trial, and how many are left is written."""
    pull_workers: int = Field(4, ge=1)
    pull_beside: bool = False
    """Pull while conversations run."""
    shard: str = "1/1"
    start: str | None = Field(None, pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
    """When the run began, UTC; its shards have it in common."""
    time_budget_s: float | None = Field(None, gt=0)
    out: str = "runs"

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
    asked: dict[str, Any] = _toml(path) if path else {}
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
