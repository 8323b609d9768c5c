"""The files of a mini-swe-agent run folder (1.x and 2.x), as far as kvci reads them."""

import json
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from kvci.errors import UserError
from kvci.files import first_problem


class Read(BaseModel):
    """Another tool's document: what it has more is its own, and null is not there."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, found: Any) -> Any:
        if isinstance(found, dict):
            return {key: value for key, value in found.items() if value is not None}
        return found


class MiniPrediction(Read):
    model_patch: str = ""
    model_name_or_path: str = ""


class Stats(Read):
    api_calls: int = 0


class Config(Read):
    agent: dict[str, Any] = {}
    model: dict[str, Any] = {}
    environment: dict[str, Any] = {}


class Info(Read):
    exit_status: str = ""
    exception_str: str = ""
    model_stats: Stats = Stats()
    mini_version: str = "not shown"
    config: Config | None = None


class Usage(Read):
    completion_tokens: int = 0
    total_tokens: int = 0


class Response(Read):
    usage: Usage | None = None
    system_fingerprint: str = ""


class Action(Read):
    command: str = ""


class Extra(Read):
    actions: list[Action] | None = None
    response: Response | None = None
    interrupt_type: str = ""
    timestamp: float | None = None


class Message(Read):
    role: str = ""
    content: Any = ""
    extra: Extra = Extra()
    timestamp: float | None = None


class Talk(Read):
    info: Info = Info()
    messages: list[Message] = []


class Owner(Read):
    hostname: str = ""


class ServedModel(Read):
    name: str = ""
    file: str = ""


class About(Read):
    """metadata.json"""

    timestamp: str = ""
    run_id: str = ""
    dataset: str = ""
    contributor: Owner = Owner()
    model: ServedModel = ServedModel()
    inference: dict[str, str | int | float | bool] = {}


class Report(Read):
    """The harness's summary."""

    total_instances: int = Field(0, ge=0)
    submitted_instances: int = Field(0, ge=0)
    resolved_ids: set[str]
    unresolved_ids: set[str] = set()
    error_ids: set[str] = set()
    submitted_ids: set[str] = set()
    completed_ids: set[str] = set()
    empty_patch_ids: set[str] = set()

    @property
    def attempted(self) -> set[str]:
        """Those of `incomplete_ids` were not."""
        seen = self.resolved_ids | self.unresolved_ids | self.error_ids
        return seen | self.submitted_ids | self.completed_ids | self.empty_patch_ids


T = TypeVar("T")
PREDICTIONS = TypeAdapter(dict[str, MiniPrediction])
TALK, ABOUT, REPORT = TypeAdapter(Talk), TypeAdapter(About), TypeAdapter(Report)


class Statuses(Read):
    instances_by_exit_status: dict[str, list[str]] = {}


def document(path: Path, adapter: TypeAdapter[T], what: str) -> T:
    """Raises UserError, saying that the file `what`."""
    return _valid(path, adapter, what, parsed(path, what))


def _valid(path: Path, adapter: TypeAdapter[T], what: str, raw: Any) -> T:
    try:
        return adapter.validate_python(raw)
    except ValidationError as error:
        raise UserError(f"{path} {what}: {first_problem(error)}.") from None


def parsed(path: Path, what: str) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path.parent} {what}: {path.name}: {error.strerror}.") from None
    except ValueError as error:
        raise UserError(f"{path} {what}: {error}.") from None


def report(folder: Path) -> Report | None:
    """Found by its keys and not by its name; the one that knows most."""
    found: list[Report] = []
    for path in sorted(folder.glob("*.json")):
        if path.name == "preds.json":
            continue
        raw = parsed(path, "is not JSON")
        for one in (raw, raw.get("instances")) if isinstance(raw, dict) else ():
            if isinstance(one, dict) and "resolved_ids" in one:
                found.append(_valid(path, REPORT, "is no report of the harness", one))
    return max(found, key=lambda report: len(report.attempted), default=None)


def statuses(folder: Path) -> dict[str, str]:
    """Instance -> exit status."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("exit_statuses_*.yaml")):
        try:
            raw = yaml.safe_load(path.read_text()) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not YAML: {str(error).splitlines()[0]}.") from None
        kept = _valid(path, TypeAdapter(Statuses), "has no exit statuses", raw)
        for status, names in kept.instances_by_exit_status.items():
            found |= dict.fromkeys(names, status)
    return found
