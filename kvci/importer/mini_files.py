"""Read and validate the files of a mini-swe-agent run folder (1.x and 2.x)."""

import json
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from kvci.errors import UserError
from kvci.problems import first_problem


class ForeignDocument(BaseModel):
    """A document of another tool. Unknown fields are ignored; a null field counts as absent."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, found: Any) -> Any:
        if isinstance(found, dict):
            return {key: value for key, value in found.items() if value is not None}
        return found


class MiniPrediction(ForeignDocument):
    model_patch: str = ""
    model_name_or_path: str = ""


class Stats(ForeignDocument):
    api_calls: int = 0


class Config(ForeignDocument):
    agent: dict[str, Any] = {}
    model: dict[str, Any] = {}
    environment: dict[str, Any] = {}


class Info(ForeignDocument):
    exit_status: str = ""
    exception_str: str = ""
    model_stats: Stats = Stats()
    mini_version: str = "not shown"
    config: Config | None = None


class Usage(ForeignDocument):
    completion_tokens: int = 0
    total_tokens: int = 0


class Response(ForeignDocument):
    usage: Usage | None = None
    system_fingerprint: str = ""


class Action(ForeignDocument):
    command: str = ""


class Extra(ForeignDocument):
    actions: list[Action] | None = None
    response: Response | None = None
    interrupt_type: str = ""
    timestamp: float | None = None


class Message(ForeignDocument):
    role: str = ""
    content: Any = ""
    extra: Extra = Extra()
    timestamp: float | None = None


class MiniTrajectory(ForeignDocument):
    info: Info = Info()
    messages: list[Message] = []


class Contributor(ForeignDocument):
    hostname: str = ""


class ServedModel(ForeignDocument):
    name: str = ""
    file: str = ""


class Metadata(ForeignDocument):
    """metadata.json, which the run's owner may add."""

    timestamp: str = ""
    run_id: str = ""
    dataset: str = ""
    contributor: Contributor = Contributor()
    model: ServedModel = ServedModel()
    inference: dict[str, str | int | float | bool] = {}


class HarnessReport(ForeignDocument):
    """The summary that the SWE-bench harness writes."""

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
        """All instances of the report except `incomplete_ids`: those instances never ran."""
        seen = self.resolved_ids | self.unresolved_ids | self.error_ids
        return seen | self.submitted_ids | self.completed_ids | self.empty_patch_ids


T = TypeVar("T")
PREDICTIONS = TypeAdapter(dict[str, MiniPrediction])
TRAJECTORY, METADATA = TypeAdapter(MiniTrajectory), TypeAdapter(Metadata)
REPORT = TypeAdapter(HarnessReport)


class Statuses(ForeignDocument):
    instances_by_exit_status: dict[str, list[str]] = {}


def document(path: Path, adapter: TypeAdapter[T], what: str) -> T:
    """Read a document. Raises UserError if the file cannot be read or is not valid.

    The error says "PATH `what`", for example "report.json is not JSON".
    """
    return _valid(path, adapter, what, parsed(path, what))


def _valid(path: Path, adapter: TypeAdapter[T], what: str, raw: Any) -> T:
    try:
        return adapter.validate_python(raw)
    except ValidationError as error:
        raise UserError(f"{path} {what} ({first_problem(error)}); restore the file.") from None


def parsed(path: Path, what: str) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"{path.parent} {what} ({path.name}: {error.strerror}); check the folder's name."
        ) from None
    except ValueError as error:
        raise UserError(f"{path} {what} ({error}); restore the file.") from None


def report(folder: Path) -> HarnessReport | None:
    """Return the report with the most instances. A file is a report if it has a report's keys."""
    found: list[HarnessReport] = []
    for path in sorted(folder.glob("*.json")):
        if path.name == "preds.json":
            continue
        raw = parsed(path, "is not JSON")
        for part in (raw, raw.get("instances")) if isinstance(raw, dict) else ():
            if isinstance(part, dict) and "resolved_ids" in part:
                what = "is not a report of the SWE-bench harness"
                found.append(_valid(path, REPORT, what, part))
    return max(found, key=lambda report: len(report.attempted), default=None)


def statuses(folder: Path) -> dict[str, str]:
    """Return the exit statuses: instance -> exit status."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("exit_statuses_*.yaml")):
        try:
            raw = yaml.safe_load(path.read_text()) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            why = str(error).splitlines()[0]
            raise UserError(f"{path} is not YAML ({why}); restore the file.") from None
        kept = _valid(path, TypeAdapter(Statuses), "has no exit statuses", raw)
        for status, names in kept.instances_by_exit_status.items():
            found |= dict.fromkeys(names, status)
    return found
