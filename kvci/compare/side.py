"""One side of a comparison: an arm of a run, or an earlier run of another tool."""

import json
from dataclasses import dataclass, field, replace

from kvci.record.record import Imported, ImportedTrial, Record, Trial
from kvci.taxonomy import INFRASTRUCTURE, Class

Key = tuple[str, int]
"""Instance and seed."""
NOT_SHOWN = ("not shown",)


@dataclass(frozen=True)
class Seen:
    """A trial as a comparison sees it; None is what was not kept."""

    label: str
    valid: bool
    resolved: bool
    patched: bool
    overflowed: bool
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


@dataclass(frozen=True)
class Side:
    name: str
    run: str
    """Sides of the same run are paired; empty is no run of kvci's."""
    kv: str
    total: int
    """Planned trials."""
    complete: bool
    verified: bool
    trials: dict[Key, Seen]
    settings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What must be equal for two sides to be comparable."""
    alpha: float = 0.05
    margin: float | None = None
    primary: str = "resolved"

    @property
    def kv_type(self) -> str:
        """Without the flags of the arm."""
        return self.kv.split()[0]


def side_of(record: Record | Imported) -> Side | None:
    """None for an imported row without trials: its counts alone say nothing of pairs."""
    if isinstance(record, Record):
        return _own(record)
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
        trials={(t.instance, 0): _common(t, t.classes, t.label) for t in derived.trials},
        settings=derived.settings,
    )


def _own(record: Record) -> Side:
    spec = record.spec
    limits = ("max_steps", "max_tokens", "max_total_tokens", "trial_s", "command_s", "test_s")
    rotated = {str(e.rotation) for e in record.effective if _quantized(e.kv_type or "")}
    settings = {
        "agent": (f"kvci {record.kvci}, prompt {spec['prompt']}",),
        **{name.replace("_", " "): (json.dumps(spec[name]),) for name in limits},
        "temperature": (json.dumps(spec["temperature"]),),
        "seeds": (json.dumps(spec["seeds"]),),
        "context per slot": (json.dumps(spec["context"]),),
        "slots": (json.dumps(spec["slots"]),),
        "primary endpoint, margin and alpha": (
            f"{spec['primary']} {json.dumps(spec['margin'])} {spec['alpha']}",
        ),
        "model sha256": (spec["model_sha256"][:12],),
        "dataset sha256": (spec["dataset_sha256"][:12],),
        "server build": tuple(sorted({str(e.build) for e in record.effective})),
        "host": tuple(sorted({trial.host for trial in record.counted})),
        "GPU": (record.gpu or "none",),
        "kernel path": tuple(sorted({e.kernel_path for e in record.effective})),
        "flash attention": tuple(sorted({str(e.flash_attention) for e in record.effective})),
        "rotation of quantized caches": tuple(sorted(rotated)),
    }
    return Side(
        name=record.row_id,
        run=f"{record.run_id} {record.spec_sha256}",
        kv=record.kv,
        total=record.total,
        complete=record.complete,
        verified=all(trial.verified for trial in record.counted),
        trials={(trial.instance, trial.seed): _seen(trial) for trial in record.counted},
        settings={label: values for label, values in settings.items() if values},
        alpha=float(spec["alpha"]),
        margin=spec["margin"],
        primary=str(spec["primary"]),
    )


def _quantized(kv_type: str) -> bool:
    return "q" in kv_type


def _seen(trial: Trial) -> Seen:
    passed, of = trial.fail_to_pass
    return replace(
        _common(trial, (trial.cls,), str(trial.cls)),
        applies=trial.applies,
        flipped=passed / of if of else None,
        place=f"{trial.host} block {trial.block} of {trial.shard}",
        said=trial.answers_sha256,
    )


def _common(trial: Trial | ImportedTrial, classes: tuple[Class, ...], label: str) -> Seen:
    """What a trial of any tool has; `classes` is all that it can have been."""
    return Seen(
        label=label,
        valid=not INFRASTRUCTURE & set(classes),
        resolved=classes == (Class.OK,),
        patched=trial.patch_bytes > 0,
        overflowed=Class.A3 in classes,
        loops=trial.loops,
        malformed=trial.malformed,
        steps=trial.steps,
        answer_tokens=trial.answer_tokens,
        depth_tokens=trial.depth_tokens,
    )
