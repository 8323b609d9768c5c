"""An earlier run folder of mini-swe-agent (1.x and 2.x) -> an imported record, trial by trial.

What was not kept is not guessed: a trial whose class cannot be told has all that it can be. In 1.x
the text of an exception was stored as the patch; here it is what it is.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from kvci.errors import UserError
from kvci.files import sha256_of
from kvci.record.record import Derived, Imported, ImportedTrial
from kvci.taxonomy import Class, repeats

ACTION = re.compile(r"```(?:bash|mswea_bash_command)[ \t]*\n(.*?)\n```", re.DOTALL)
OVERFLOW = re.compile(r"exceeds? the available context|context.{0,20}window|context length", re.I)
FORMAT_ERROR = re.compile(r"^Please always provide EXACTLY ONE action")
"""How 1.x answers an answer without one action; 2.x marks it."""
NOT_GRADED = "not graded"
UNSPLIT = (Class.A8, Class.A9, Class.A11A, Class.A11B)
NO_LOG = (Class.I3, Class.A7, Class.A10)
TIMEOUTS = {"Timeout", "APITimeoutError"}
CONNECTION = {"APIConnectionError", "InternalServerError", "ServiceUnavailableError", "APIError"}
SETTINGS = (
    ("step limit", ("agent", "step_limit")),
    ("cost limit", ("agent", "cost_limit")),
    ("environment timeout", ("environment", "timeout")),
)
SAMPLING = {"temperature", "top_p", "top_k", "min_p", "seed", "max_tokens", "timeout", "drop_params"}
"""What is kept of a model's settings. All else may be a secret, and a record is published."""
SERVING = {
    "ctx_size", "context_size", "n_ctx", "n_parallel", "slots", "n_gpu_layers", "flash_attn",
    "server", "engine", "version", "build",
}  # fmt: skip
"""The same of what the folder says of the server."""


@dataclass
class _Report:
    """What the harness said: ids by outcome."""

    total: int = 0
    submitted: int = 0
    resolved: set[str] = field(default_factory=set)
    unresolved: set[str] = field(default_factory=set)
    error: set[str] = field(default_factory=set)
    known: set[str] = field(default_factory=set)


def read_run(folder: Path, kv: str | None = None, dataset: str | None = None) -> Imported:
    """Raises UserError for what is no run folder, or lacks its KV type and does not say it."""
    predictions = _json(folder / "preds.json", "is no run folder of mini-swe-agent")
    patches = {name: str(one.get("model_patch") or "") for name, one in predictions.items()}
    about = _json(folder / "metadata.json") if (folder / "metadata.json").exists() else {}
    report, statuses = _report(folder), _statuses(folder)
    talks = {
        path.parent.name: _json(path, "is no trajectory") for path in folder.glob("*/*.traj.json")
    }
    names = sorted(patches.keys() | talks.keys() | statuses.keys() | (report or _Report()).known)
    trials = [
        _trial(name, patches.get(name), talks.get(name), statuses.get(name), report)
        for name in names
    ]
    told = about.get("inference", {})
    kv = kv or "/".join(str(told[k]) for k in ("kv_type_k", "kv_type_v") if told.get(k))
    if not kv:
        raise UserError(f"{folder} does not say its KV type; give --kv K/V.")
    start = about.get("timestamp") or _first_time(talks.values())
    model = about.get("model", {}).get("name") or _model(predictions)
    total = max(len(names), report.total if report else 0)
    where = dataset or str(about.get("dataset", "")).rpartition("/")[2].replace("_", " ")
    row_id = str(about.get("run_id") or folder.resolve().name)
    reported = {
        "Date": str(start)[:10],
        "Model": model,
        "KV Cache": kv,
        "Dataset": where or "not shown",
        "Submitted": f"{report.submitted if report else sum(map(bool, patches.values()))}/{total}",
        "Resolved": str(len(report.resolved)) if report else NOT_GRADED,
        "Rate": f"{len(report.resolved) / total:.2%}" if report else NOT_GRADED,
        "Errors": str(len(report.error)) if report else NOT_GRADED,
        "Run ID": row_id,
    }
    derived = Derived(
        kv=kv, total=total, settings=_settings(talks.values(), about), trials=tuple(trials)
    )
    return Imported(row_id=row_id, table="log", reported=reported, derived=derived)


def _json(path: Path, what: str = "is not JSON") -> dict[str, Any]:
    found = _parsed(path, what)
    if not isinstance(found, dict):
        raise UserError(f"{path} {what}: it is not a JSON object.")
    return found


def _parsed(path: Path, what: str) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path.parent} {what}: {path.name}: {error.strerror}.") from None
    except ValueError as error:
        raise UserError(f"{path} {what}: {error}.") from None


def _report(folder: Path) -> _Report | None:
    """The harness's summary, by its keys and not by its name; the one that knows most."""
    found: list[_Report] = []
    for path in sorted(folder.glob("*.json")):
        if path.name == "preds.json":
            continue
        raw = _parsed(path, "is not JSON")
        for one in (raw, raw.get("instances")) if isinstance(raw, dict) else ():
            if isinstance(one, dict) and "resolved_ids" in one:
                lists = {key: set(value) for key, value in one.items() if key.endswith("_ids")}
                found.append(
                    _Report(
                        total=int(one.get("total_instances", 0)),
                        submitted=int(one.get("submitted_instances", 0)),
                        resolved=lists["resolved_ids"],
                        unresolved=lists.get("unresolved_ids", set()),
                        error=lists.get("error_ids", set()),
                        known=set().union(*lists.values()),
                    )
                )
    return max(found, key=lambda report: len(report.known), default=None)


def _statuses(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(folder.glob("exit_statuses_*.yaml")):
        raw = yaml.safe_load(path.read_text()) or {}
        for status, names in (raw.get("instances_by_exit_status") or {}).items():
            found |= dict.fromkeys(names, str(status))
    return found


def _trial(
    name: str,
    patch: str | None,
    talk: dict[str, Any] | None,
    status: str | None,
    report: _Report | None,
) -> ImportedTrial:
    info: dict[str, Any] = (talk or {}).get("info", {})
    ended = str(info.get("exit_status") or status or "")
    said = str(info.get("exception_str") or (patch if ended != "Submitted" else "") or "")
    messages: list[dict[str, Any]] = (talk or {}).get("messages", [])
    answers = [usage for message in messages for usage in _usage(message)]
    actions = tuple(action for message in messages for action in _actions(message))
    real = patch or "" if ended == "Submitted" else ""
    found, why = _classes(name, ended, said, bool(real.strip()), bool(answers), actions, report)
    data = real.encode(errors="surrogateescape")
    return ImportedTrial(
        instance=name,
        exit=ended,
        classes=found,
        why=why,
        steps=int(info.get("model_stats", {}).get("api_calls", 0)),
        answer_tokens=sum(usage.get("completion_tokens", 0) for usage in answers),
        depth_tokens=max((usage.get("total_tokens", 0) for usage in answers), default=0),
        loops=sum(repeats(actions[: end + 1]) for end in range(len(actions))),
        malformed=sum(map(_malformed, messages)),
        patch_sha256=sha256_of(data),
        patch_bytes=len(data),
        exception_as_patch=bool(patch and patch.strip() and not real),
    )


def _classes(
    name: str,
    ended: str,
    said: str,
    patched: bool,
    answered: bool,
    actions: tuple[str, ...],
    report: _Report | None,
) -> tuple[tuple[Class, ...], str]:
    """Rules section 1 as far as the evidence goes; what could not be told is all that it may be."""
    looping = repeats(actions[-9:])
    limit = Class.A2 if looping else Class.A4
    if ended == "Submitted":
        if not patched:
            return (Class.A6,), "submitted, empty patch"
        if report is None:
            return (Class.I3, Class.OK, Class.A7, *UNSPLIT, Class.A10), NOT_GRADED
        if name in report.resolved:
            return (Class.OK,), "resolved by the harness"
        if name in report.unresolved:
            return UNSPLIT, "unsplit"
        return NO_LOG, "no log"
    if OVERFLOW.search(said) or ended == "ContextWindowExceededError":
        return (Class.A2 if looping else Class.A3,), f"exit {ended}"
    if ended in {"LimitsExceeded", "TimeExceeded"}:
        return (limit,), f"exit {ended}"
    if ended == "RepeatedFormatError":
        return (Class.A5,), f"exit {ended}"
    if ended in TIMEOUTS:
        return (Class.I2, limit), "health not kept"
    if ended in CONNECTION:
        return (Class.I2,), f"exit {ended}"
    if not answered:
        return (Class.I1,), f"exit {ended or 'not kept'}, before the first answer"
    return (Class.I1, Class.I2, Class.I4), f"exit {ended or 'not kept'}"


def _actions(message: dict[str, Any]) -> Iterator[str]:
    if message.get("role") != "assistant":
        return
    kept = (message.get("extra") or {}).get("actions")
    if kept is not None:
        yield from (str(action.get("command", "")) for action in kept)
    else:
        found = ACTION.findall(str(message.get("content") or ""))
        if len(found) == 1:
            yield str(found[0]).strip()


def _usage(message: dict[str, Any]) -> Iterator[dict[str, int]]:
    response = (message.get("extra") or {}).get("response")
    if isinstance(response, dict) and isinstance(response.get("usage"), dict):
        yield response["usage"]


def _malformed(message: dict[str, Any]) -> bool:
    kind = (message.get("extra") or {}).get("interrupt_type")
    first = message.get("role") == "user" and str(message.get("content") or "")
    return kind == "FormatError" or bool(first and FORMAT_ERROR.match(first))


def _settings(talks: Any, about: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """What two runs have to share to be comparable: setting -> each value met.

    A host's name is nobody's business; a digest tells two apart.
    """
    met: dict[str, set[str]] = defaultdict(set)
    for talk in talks:
        info = talk.get("info", {})
        met["agent"].add(f"mini-swe-agent {info.get('mini_version', 'not shown')}")
        config = info.get("config")
        if config:
            for label, (room, key) in SETTINGS:
                value = (config.get(room) or {}).get(key)
                if isinstance(value, dict):
                    value = {k: v for k, v in value.items() if k not in ("extra_body", "api_base")}
                met[label].add(json.dumps(value, sort_keys=True))
        for message in talk.get("messages", []):
            response = (message.get("extra") or {}).get("response")
            if isinstance(response, dict) and response.get("system_fingerprint"):
                met["server build"].add(str(response["system_fingerprint"]))
    host = about.get("contributor", {}).get("hostname")
    if host:
        met["host"].add(sha256_of(str(host).encode())[:12])
    for key, value in sorted(about.get("inference", {}).items()):
        if not key.startswith("kv_type"):
            met[key.replace("_", " ")].add(str(value))
    if about.get("model", {}).get("file"):
        met["model file"].add(str(about["model"]["file"]))
    return {label: tuple(sorted(values)) for label, values in sorted(met.items())}


def _first_time(talks: Any) -> str:
    times = [
        float(stamp)
        for talk in talks
        for message in talk.get("messages", [])
        if (stamp := message.get("timestamp") or (message.get("extra") or {}).get("timestamp"))
    ]
    return datetime.fromtimestamp(min(times), UTC).isoformat() if times else "not shown"


def _model(predictions: dict[str, Any]) -> str:
    names = {str(one.get("model_name_or_path", "")) for one in predictions.values()} - {""}
    return names.pop().rpartition("/")[2] if len(names) == 1 else "not shown"
