"""Make an imported record from a run folder of mini-swe-agent (1.x and 2.x).

kvci guesses nothing: if the folder does not decide a trial's class, the trial has all possible
classes. mini-swe-agent 1.x stored the text of an exception as the patch; such a text does not count
as a patch.
"""

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path

from kvci.errors import UserError
from kvci.files import sha256_of
from kvci.importer.mini_files import (
    METADATA,
    PREDICTIONS,
    TRAJECTORY,
    HarnessReport,
    Message,
    Metadata,
    MiniPrediction,
    MiniTrajectory,
    document,
    report,
    statuses,
)
from kvci.problems import first_problem
from kvci.record.schema import ROW_ID, Derived, Imported, ImportedTrial
from kvci.spec import Arm
from kvci.taxonomy import Class, repeats

ACTION = re.compile(r"```(?:bash|mswea_bash_command)[ \t]*\n(.*?)\n```", re.DOTALL)
OVERFLOW = re.compile(r"exceeds? the available context|context.{0,20}window|context length", re.I)
FORMAT_ERROR = re.compile(r"^Please always provide EXACTLY ONE action")
"""The reply of 1.x to an answer that does not have exactly one action. 2.x sets `interrupt_type`.
"""
SUBMITTED = "Submitted"
NOT_GRADED = "not graded"
UNSPLIT = (Class.A8, Class.A9, Class.A11A, Class.A11B)
NO_LOG = (Class.I3, Class.A7, Class.A10)
UNGRADED = (Class.I3, Class.OK, Class.A7, *UNSPLIT, Class.A10)
ENDINGS = (Class.A1, Class.A2, Class.A3, Class.A4, Class.A5, Class.A6)
BROKEN = (Class.I1, Class.I2, Class.I4)
TIMEOUTS = {"Timeout", "APITimeoutError"}
CONNECTION = {"APIConnectionError", "InternalServerError", "ServiceUnavailableError", "APIError"}
SETTINGS = (
    ("step limit", "agent", "step_limit"),
    ("cost limit", "agent", "cost_limit"),
    ("command timeout s", "environment", "timeout"),
)
SAMPLING = {
    **{name: name for name in ("temperature", "top_p", "top_k", "min_p", "seed")},
    "max_tokens": "max tokens",
    "timeout": "request timeout s",
}
"""A model's setting -> its name in the record. Other settings are omitted, because they may be
secret and a record is published."""
SERVING = {
    "accelerator": "accelerator",
    "ctx_size": "context",
    "n_parallel": "slots",
    "n_gpu_layers": "gpu layers",
    "flash_attn": "flash attention",
    "threads": "threads",
}
"""A server's setting in metadata.json -> its name in the record."""


def read_run(folder: Path, kv: str | None = None, dataset: str | None = None) -> Imported:
    """Return the record of a run folder.

    `kv` and `dataset` take precedence over metadata.json. Raises UserError if `folder` is not a run
    folder, or if neither `kv` nor metadata.json gives a KV type.
    """
    what = "is not a run folder of mini-swe-agent"
    predictions = document(folder / "preds.json", PREDICTIONS, what)
    path = folder / "metadata.json"
    what = "is not a valid metadata.json"
    metadata = document(path, METADATA, what) if path.exists() else Metadata()
    graded, exits = report(folder), statuses(folder)
    trajectories = {
        path.parent.name: document(path, TRAJECTORY, "is not a trajectory of mini-swe-agent")
        for path in folder.glob("*/*.traj.json")
    }
    names = predictions.keys() | trajectories.keys() | exits.keys()
    names |= graded.attempted if graded else set()
    patches = {name: prediction.model_patch for name, prediction in predictions.items()}
    trials = [
        _trial(name, patches.get(name, ""), trajectories.get(name), exits.get(name, ""), graded)
        for name in sorted(names)
    ]
    if not names:
        raise UserError(f"{folder} has no instances; import the folder of another run.")
    row_id = metadata.run_id or folder.resolve().name
    if not re.fullmatch(ROW_ID, row_id):
        raise UserError(
            f"The row id {row_id!r} of {folder} cannot name a file; rename the folder, or change "
            "run_id in its metadata.json."
        )
    kv = _kv(folder, kv, metadata)
    total = max(len(names), graded.total_instances if graded else 0)
    submitted = graded.submitted_instances if graded else sum(map(bool, patches.values()))
    reported = {
        "Date": (metadata.timestamp or _first_time(trajectories.values()))[:10],
        "Model": metadata.model.name or _model(predictions.values()),
        "KV Cache": kv,
        "Dataset": dataset or metadata.dataset.rpartition("/")[2].replace("_", " ") or "not shown",
        "Submitted": f"{submitted}/{total}",
        "Resolved": str(len(graded.resolved_ids)) if graded else NOT_GRADED,
        "Rate": _rate(graded, len(names), total),
        "Errors": str(len(graded.error_ids)) if graded else NOT_GRADED,
        "Run ID": row_id,
    }
    settings = _settings(trajectories.values(), metadata)
    settings |= {name.lower(): (reported[name],) for name in ("Model", "Dataset")}
    derived = Derived(kv=kv, total=total, settings=settings, trials=tuple(trials))
    return Imported(row_id=row_id, table="log", reported=reported, derived=derived)


def _rate(graded: HarnessReport | None, done: int, total: int) -> str:
    if graded is None:
        return NOT_GRADED
    return "interim" if done < total else f"{len(graded.resolved_ids) / total:.2%}"


def _kv(folder: Path, kv: str | None, metadata: Metadata) -> str:
    types = [str(metadata.inference.get(key, "")) for key in ("kv_type_k", "kv_type_v")]
    text = kv if kv is not None else "/".join(filter(None, types))
    if not text:
        raise UserError(
            f"{folder} does not state its KV type; import it with kvci import --kv K/V."
        )
    try:
        return Arm.parse(text).kv_type
    except ValueError as error:
        raise UserError(
            f"The KV type of {folder} is not valid ({first_problem(error)}); give it with --kv K/V."
        ) from None


def _trial(
    name: str,
    prediction: str,
    trajectory: MiniTrajectory | None,
    status: str,
    graded: HarnessReport | None,
) -> ImportedTrial:
    info = trajectory.info if trajectory else MiniTrajectory().info
    messages = trajectory.messages if trajectory else []
    exit_status = info.exit_status or status
    is_patch = exit_status == SUBMITTED or prediction.startswith("diff --git ")
    patch = prediction if is_patch else ""
    exception = info.exception_str or ("" if patch else prediction)
    usages = [m.extra.response.usage for m in messages if m.extra.response]
    used = [usage for usage in usages if usage]
    actions = tuple(action for message in messages for action in _actions(message))
    overflow = bool(OVERFLOW.search(exception)) or exit_status == "ContextWindowExceededError"
    classes, why = _classes(
        name, exit_status, overflow, patch, exception, bool(used), actions, graded
    )
    data = patch.encode(errors="surrogateescape")
    return ImportedTrial(
        instance=name,
        exit=exit_status,
        classes=classes,
        why=why,
        steps=info.model_stats.api_calls,
        answer_tokens=sum(usage.completion_tokens for usage in used),
        depth_tokens=max((usage.total_tokens for usage in used), default=0),
        loops=sum(repeats(actions[: end + 1]) for end in range(len(actions))),
        malformed=sum(map(_malformed, messages)),
        patch_sha256=sha256_of(data),
        patch_bytes=len(data),
        overflowed=overflow if trajectory or exit_status or exception else None,
        exception_as_patch=bool(prediction.strip() and not patch),
    )


def _classes(
    name: str,
    exit_status: str,
    overflow: bool,
    patch: str,
    exception: str,
    answered: bool,
    actions: tuple[str, ...],
    graded: HarnessReport | None,
) -> tuple[tuple[Class, ...], str]:
    """Return all classes that the evidence allows, in the order of RULES.md, and their reason."""
    if graded and name in graded.resolved_ids:
        return (Class.OK,), "resolved by the harness"
    looping = repeats(actions[-9:])
    limit = Class.A2 if looping else Class.A4
    if overflow:
        return (Class.A2 if looping else Class.A3,), f"exit {exit_status or 'not kept'}"
    if exit_status == SUBMITTED and not patch.strip():
        return (Class.A6,), "submitted, empty patch"
    if exit_status == SUBMITTED or (not exit_status and patch):
        return _unresolved_classes(name, graded, exit_status)
    if exit_status in {"LimitsExceeded", "TimeExceeded"}:
        return (limit,), f"exit {exit_status}"
    if exit_status == "RepeatedFormatError":
        return (Class.A5,), f"exit {exit_status}"
    if exit_status in TIMEOUTS:
        return (Class.I2, limit), "health not kept"
    if exit_status in CONNECTION:
        return (Class.I2,), f"exit {exit_status}"
    if not exit_status and not exception:
        return (*BROKEN, *ENDINGS), "exit not kept"
    if not answered and exit_status:
        return (Class.I1,), f"exit {exit_status}, before the first answer"
    return BROKEN, f"exit {exit_status or 'not kept'}"


def _unresolved_classes(
    name: str, graded: HarnessReport | None, exit_status: str
) -> tuple[tuple[Class, ...], str]:
    """Return the possible classes of a trial that has a patch and is not resolved.

    If the exit status is missing, the conversation may also have ended in any other way, except
    with an empty patch.
    """
    endings = () if exit_status else ENDINGS[:-1]
    if graded is None:
        return (*UNGRADED, *endings), NOT_GRADED
    if name in graded.unresolved_ids:
        return (*UNSPLIT, *endings), "exit not kept" if endings else "unsplit"
    return (*NO_LOG, *endings), "no log"


def _actions(message: Message) -> Iterator[str]:
    if message.role != "assistant":
        return
    if message.extra.actions is not None:
        yield from (action.command for action in message.extra.actions)
    else:
        found = ACTION.findall(str(message.content))
        if len(found) == 1:
            yield str(found[0]).strip()


def _malformed(message: Message) -> bool:
    asked_again = message.role == "user" and FORMAT_ERROR.match(str(message.content))
    return message.extra.interrupt_type == "FormatError" or bool(asked_again)


def _settings(
    trajectories: Collection[MiniTrajectory], metadata: Metadata
) -> dict[str, tuple[str, ...]]:
    """Return the settings that must be equal in comparable runs: setting -> all its values.

    The host's name is private. A digest identifies the host instead.
    """
    met: dict[str, set[str]] = defaultdict(set)
    for trajectory in trajectories:
        met["agent"].add(f"mini-swe-agent {trajectory.info.mini_version}")
        if config := trajectory.info.config:
            for label, section, key in SETTINGS:
                met[label].add(json.dumps(getattr(config, section).get(key)))
            found = config.model.get("model_kwargs")
            kwargs = found if isinstance(found, dict) else {}
            for key, label in SAMPLING.items():
                met[label].add(json.dumps(kwargs[key]) if key in kwargs else "not set")
        for message in trajectory.messages:
            if message.extra.response and message.extra.response.system_fingerprint:
                met["server build"].add(message.extra.response.system_fingerprint)
    if metadata.contributor.hostname:
        met["host"].add(sha256_of(metadata.contributor.hostname.encode())[:12])
    for key, label in SERVING.items():
        if key in metadata.inference:
            met[label].add(str(metadata.inference[key]))
    if metadata.model.file:
        met["model file"].add(metadata.model.file.rpartition("/")[2])
    return {label: tuple(sorted(values)) for label, values in sorted(met.items())}


def _first_time(trajectories: Collection[MiniTrajectory]) -> str:
    messages = [message for trajectory in trajectories for message in trajectory.messages]
    stamps = [message.timestamp or message.extra.timestamp for message in messages]
    times = [stamp for stamp in stamps if stamp]
    return datetime.fromtimestamp(min(times), UTC).isoformat() if times else "not shown"


def _model(predictions: Collection[MiniPrediction]) -> str:
    names = {prediction.model_name_or_path for prediction in predictions} - {""}
    return names.pop().rpartition("/")[2] if len(names) == 1 else "not shown"
