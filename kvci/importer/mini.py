"""An earlier run folder of mini-swe-agent (1.x and 2.x) -> an imported record, trial by trial.

What was not kept is not guessed: a trial whose class cannot be told has all that it can be. In 1.x
the text of an exception was stored as the patch; here it is what it is.
"""

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path

from kvci.errors import UserError
from kvci.files import first_problem, sha256_of
from kvci.importer.mini_files import (
    ABOUT,
    PREDICTIONS,
    TALK,
    About,
    Message,
    MiniPrediction,
    Report,
    Talk,
    document,
    report,
    statuses,
)
from kvci.record.schema import ROW_ID, Derived, Imported, ImportedTrial
from kvci.spec import Arm
from kvci.taxonomy import Class, repeats

ACTION = re.compile(r"```(?:bash|mswea_bash_command)[ \t]*\n(.*?)\n```", re.DOTALL)
OVERFLOW = re.compile(r"exceeds? the available context|context.{0,20}window|context length", re.I)
FORMAT_ERROR = re.compile(r"^Please always provide EXACTLY ONE action")
"""How 1.x answers an answer without one action; 2.x marks it."""
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
"""What is kept of a model's settings, and what kvci calls it. All else may be a secret, and a
record is published."""
SERVING = {
    "accelerator": "accelerator",
    "ctx_size": "context",
    "n_parallel": "slots",
    "n_gpu_layers": "gpu layers",
    "flash_attn": "flash attention",
    "threads": "threads",
}
"""The same of what metadata.json says of the server."""


def read_run(folder: Path, kv: str | None = None, dataset: str | None = None) -> Imported:
    """Raises UserError for what is no run folder, or lacks its KV type and does not say it."""
    what = "is no run folder of mini-swe-agent"
    predictions = document(folder / "preds.json", PREDICTIONS, what)
    path = folder / "metadata.json"
    about = document(path, ABOUT, "is no metadata.json") if path.exists() else About()
    graded, ends = report(folder), statuses(folder)
    talks = {
        path.parent.name: document(path, TALK, "is no trajectory")
        for path in folder.glob("*/*.traj.json")
    }
    names = predictions.keys() | talks.keys() | ends.keys()
    names |= graded.attempted if graded else set()
    patches = {name: one.model_patch for name, one in predictions.items()}
    trials = [
        _trial(name, patches.get(name, ""), talks.get(name), ends.get(name, ""), graded)
        for name in sorted(names)
    ]
    if not names:
        raise UserError(f"{folder} holds no instance; there is nothing to import.")
    row_id = about.run_id or folder.resolve().name
    if not re.fullmatch(ROW_ID, row_id):
        raise UserError(f"{folder} cannot name a record: {row_id!r}; rename it, or its run_id.")
    kv = _kv(folder, kv, about)
    total = max(len(names), graded.total_instances if graded else 0)
    given = sum(bool(patch) for patch in patches.values())
    reported = {
        "Date": (about.timestamp or _first_time(talks.values()))[:10],
        "Model": about.model.name or _model(predictions.values()),
        "KV Cache": kv,
        "Dataset": dataset or about.dataset.rpartition("/")[2].replace("_", " ") or "not shown",
        "Submitted": f"{graded.submitted_instances if graded else given}/{total}",
        "Resolved": str(len(graded.resolved_ids)) if graded else NOT_GRADED,
        "Rate": _rate(graded, len(names), total),
        "Errors": str(len(graded.error_ids)) if graded else NOT_GRADED,
        "Run ID": row_id,
    }
    settings = _settings(talks.values(), about)
    settings |= {name.lower(): (reported[name],) for name in ("Model", "Dataset")}
    derived = Derived(kv=kv, total=total, settings=settings, trials=tuple(trials))
    return Imported(row_id=row_id, table="log", reported=reported, derived=derived)


def _rate(graded: Report | None, done: int, total: int) -> str:
    if graded is None:
        return NOT_GRADED
    return "interim" if done < total else f"{len(graded.resolved_ids) / total:.2%}"


def _kv(folder: Path, given: str | None, about: About) -> str:
    told = [str(about.inference.get(key, "")) for key in ("kv_type_k", "kv_type_v")]
    text = given if given is not None else "/".join(filter(None, told))
    if not text:
        raise UserError(f"{folder} does not say its KV type; import it with kvci import --kv K/V.")
    try:
        return Arm.parse(text).kv_type
    except ValueError as error:
        raise UserError(f"The KV type of {folder} is not valid: {first_problem(error)}.") from None


def _trial(
    name: str, patch: str, talk: Talk | None, status: str, graded: Report | None
) -> ImportedTrial:
    info = talk.info if talk else Talk().info
    messages = talk.messages if talk else []
    ended = info.exit_status or status
    real = patch if ended == SUBMITTED or patch.startswith("diff --git ") else ""
    said = info.exception_str or ("" if real else patch)
    usages = [m.extra.response.usage for m in messages if m.extra.response]
    used = [usage for usage in usages if usage]
    actions = tuple(action for message in messages for action in _actions(message))
    full = bool(OVERFLOW.search(said)) or ended == "ContextWindowExceededError"
    found, why = _classes(name, ended, full, real, said, bool(used), actions, graded)
    data = real.encode(errors="surrogateescape")
    return ImportedTrial(
        instance=name,
        exit=ended,
        classes=found,
        why=why,
        steps=info.model_stats.api_calls,
        answer_tokens=sum(usage.completion_tokens for usage in used),
        depth_tokens=max((usage.total_tokens for usage in used), default=0),
        loops=sum(repeats(actions[: end + 1]) for end in range(len(actions))),
        malformed=sum(map(_malformed, messages)),
        patch_sha256=sha256_of(data),
        patch_bytes=len(data),
        overflowed=full if talk or ended or said else None,
        exception_as_patch=bool(patch.strip() and not real),
    )


def _classes(
    name: str,
    ended: str,
    full: bool,
    patch: str,
    said: str,
    answered: bool,
    actions: tuple[str, ...],
    graded: Report | None,
) -> tuple[tuple[Class, ...], str]:
    """Rules section 1 as far as the evidence goes; what could not be told is all that it may be."""
    if graded and name in graded.resolved_ids:
        return (Class.OK,), "resolved by the harness"
    looping = repeats(actions[-9:])
    limit = Class.A2 if looping else Class.A4
    if full:
        return (Class.A2 if looping else Class.A3,), f"exit {ended or 'not kept'}"
    if ended == SUBMITTED and not patch.strip():
        return (Class.A6,), "submitted, empty patch"
    if ended == SUBMITTED or (not ended and patch):
        return _of_patch(name, graded, ended)
    if ended in {"LimitsExceeded", "TimeExceeded"}:
        return (limit,), f"exit {ended}"
    if ended == "RepeatedFormatError":
        return (Class.A5,), f"exit {ended}"
    if ended in TIMEOUTS:
        return (Class.I2, limit), "health not kept"
    if ended in CONNECTION:
        return (Class.I2,), f"exit {ended}"
    if not ended and not said:
        return (*BROKEN, *ENDINGS), "exit not kept"
    if not answered and ended:
        return (Class.I1,), f"exit {ended}, before the first answer"
    return BROKEN, f"exit {ended or 'not kept'}"


def _of_patch(name: str, graded: Report | None, ended: str) -> tuple[tuple[Class, ...], str]:
    """Of a patch that is there and not resolved; how the conversation ended may not be known."""
    more = () if ended else ENDINGS[:-1]
    if graded is None:
        return (*UNGRADED, *more), NOT_GRADED
    if name in graded.unresolved_ids:
        return (*UNSPLIT, *more), "exit not kept" if more else "unsplit"
    return (*NO_LOG, *more), "no log"


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


def _settings(talks: Collection[Talk], about: About) -> dict[str, tuple[str, ...]]:
    """What two runs have to share to be comparable: setting -> each value met.

    A host's name is nobody's business; a digest tells two apart.
    """
    met: dict[str, set[str]] = defaultdict(set)
    for talk in talks:
        met["agent"].add(f"mini-swe-agent {talk.info.mini_version}")
        if config := talk.info.config:
            for label, room, key in SETTINGS:
                met[label].add(json.dumps(getattr(config, room).get(key)))
            asked = config.model.get("model_kwargs")
            kept = asked if isinstance(asked, dict) else {}
            for key, label in SAMPLING.items():
                met[label].add(json.dumps(kept[key]) if key in kept else "not set")
        for message in talk.messages:
            if message.extra.response and message.extra.response.system_fingerprint:
                met["server build"].add(message.extra.response.system_fingerprint)
    if about.contributor.hostname:
        met["host"].add(sha256_of(about.contributor.hostname.encode())[:12])
    for key, label in SERVING.items():
        if key in about.inference:
            met[label].add(str(about.inference[key]))
    if about.model.file:
        met["model file"].add(about.model.file.rpartition("/")[2])
    return {label: tuple(sorted(values)) for label, values in sorted(met.items())}


def _first_time(talks: Collection[Talk]) -> str:
    stamps = [m.timestamp or m.extra.timestamp for talk in talks for m in talk.messages]
    times = [stamp for stamp in stamps if stamp]
    return datetime.fromtimestamp(min(times), UTC).isoformat() if times else "not shown"


def _model(predictions: Collection[MiniPrediction]) -> str:
    names = {one.model_name_or_path for one in predictions} - {""}
    return names.pop().rpartition("/")[2] if len(names) == 1 else "not shown"
