"""One side of a comparison: an arm of a run, or an earlier run of another tool."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from kvci.record.schema import Imported, ImportedTrial, Record, RecordedTrial
from kvci.spec import Arm
from kvci.taxonomy import INFRASTRUCTURE, Class, Exit

Key = tuple[str, int]
"""Instance and seed."""
UNKNOWN = "not shown"
ROTATION = "rotation of quantized caches"


@dataclass(frozen=True)
class Seen:
    """A trial as a comparison sees it; None is what was not kept."""

    label: str
    valid: bool
    resolved: bool | None
    patched: bool
    overflowed: bool | None
    loops: int
    malformed: int
    steps: int
    answer_tokens: int
    depth_tokens: int
    applies: bool | None = None
    flipped: float | None = None
    """The share of the failing tests that pass."""
    place: str = ""
    """The host and the block; a pair never crosses them."""
    said: str = ""
    """A digest of what can differ if a token does."""
    served: bool = True
    """False if this arm's server failed where another's did not (A12): no endpoint was reached."""


@dataclass(frozen=True)
class Side:
    name: str
    run: str
    """Sides of the same run are paired; empty is no run of kvci's."""
    kv: str
    total: int
    """Planned trials of this arm."""
    complete: bool
    verified: bool
    trials: dict[Key, Seen]
    settings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What must be equal for two sides to be comparable."""
    arm: str = ""
    arms: tuple[str, ...] = ()
    """Of its run, in the spec's order, which is that of what is claimed; the baseline is first."""
    alpha: float = 0.05
    margin: float | None = None
    primary: str = "resolved"

    @property
    def kv_type(self) -> str:
        """Without the flags of the arm."""
        return self.kv.split()[0]


def missing_arms(sides: Iterable[Side]) -> list[str]:
    """Those of the sides' runs that are not among the sides."""
    there: dict[str, set[str]] = defaultdict(set)
    planned: dict[str, tuple[str, ...]] = {}
    for side in sides:
        there[side.run].add(side.arm)
        planned[side.run] = side.arms
    return [arm for run, arms in planned.items() for arm in arms if arm not in there[run]]


def side_of(record: Record | Imported) -> Side | None:
    """None for an imported row without trials: its counts alone say nothing of pairs."""
    if isinstance(record, Record):
        return own_side(record)
    if record.derived is None:
        return None
    derived = record.derived
    return Side(
        name=record.row_id,
        run="",
        kv=derived.kv,
        total=derived.total,
        complete=len(derived.trials) == derived.total,
        verified=False,
        trials={(trial.instance, 0): _imported(trial) for trial in derived.trials},
        settings=derived.settings,
    )


NOT_COMPARED = {
    *("arms", "spec_sha256", "model_sha256", "dataset_sha256"),  # the treatment, or said below
    *("alpha", "margin", "primary", "block_size", "order_seed"),  # no trial knows of them
}


RENAMED = {"max_steps": "step limit", "command_s": "command timeout s"}
EFFECTIVE = {
    "server build": "build",
    "kernel path": "kernel_path",
    "flash attention": "flash_attention",
    "effective slots": "slots",
    "context per slot": "context_per_slot",
    "unified cache": "unified",
    "KV device": "kv_device",
    ROTATION: "rotation",
}
"""What a server's log proves that may not differ: in words, and in the effective configuration."""


def own_side(record: Record) -> Side:
    """An arm of a run of kvci's."""
    spec = record.spec
    met: dict[str, set[str]] = {
        RENAMED.get(key, key.replace("_", " ")): {
            value if isinstance(value, str) else json.dumps(value)
        }
        for key, value in spec.items()
        if key not in NOT_COMPARED
    }
    effective = record.effective
    met |= {
        "model sha256": {spec["model_sha256"][:12]},
        "dataset": {record.dataset},
        "dataset sha256": {spec["dataset_sha256"][:12]},
        "agent": {f"kvci {record.kvci}"},
        "host": {trial.host for trial in record.counted},
        "GPU": {record.gpu or "none"},
    }
    for label, name in EFFECTIVE.items():
        values = {getattr(one, name) for one in effective}
        met[label] = {UNKNOWN if value is None else str(value) for value in values} or {UNKNOWN}
    if not quantized(record.kv):
        del met[ROTATION]
    arms = tuple(Arm.model_validate(arm).id for arm in spec["arms"])
    return Side(
        name=record.row_id,
        run=" ".join(record.key),
        kv=record.kv,
        total=record.total,
        complete=record.complete,
        verified=all(trial.verified for trial in record.counted),
        trials={(trial.instance, trial.seed): _seen(trial) for trial in record.counted},
        settings={label: tuple(sorted(values)) for label, values in met.items() if values},
        arm=record.arm,
        arms=arms,
        alpha=float(spec["alpha"]),
        margin=spec["margin"],
        primary=str(spec["primary"]),
    )


def quantized(kv: str) -> bool:
    """A cache that may be rotated."""
    return "q" in kv.split()[0]


def _seen(trial: RecordedTrial) -> Seen:
    """What was not reached did not happen: no patch applied, no failing test passed."""
    passed, of = trial.fail_to_pass
    return replace(
        _common(trial, (trial.cls,), str(trial.cls)),
        overflowed=trial.exit is Exit.CONTEXT_OVERFLOW,
        applies=bool(trial.applies),
        flipped=passed / of if of else 0.0,
        place=f"{trial.host} block {trial.block} of {trial.shard}",
        said=trial.answers_sha256,
        served=trial.cls is not Class.A12,
    )


def _imported(trial: ImportedTrial) -> Seen:
    return replace(_common(trial, trial.classes, trial.label), overflowed=trial.overflowed)


def _common(trial: RecordedTrial | ImportedTrial, classes: tuple[Class, ...], label: str) -> Seen:
    """What a trial of any tool has; `classes` is all that it can have been."""
    return Seen(
        label=label,
        valid=not INFRASTRUCTURE & set(classes),
        resolved=classes == (Class.OK,) or (None if Class.OK in classes else False),
        patched=trial.patch_bytes > 0,
        overflowed=None,
        loops=trial.loops,
        malformed=trial.malformed,
        steps=trial.steps,
        answer_tokens=trial.answer_tokens,
        depth_tokens=trial.depth_tokens,
    )
