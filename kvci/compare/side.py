"""One side of a comparison: an arm of a run, or an earlier run of another tool."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from kvci.record.schema import Imported, ImportedTrial, Record, RecordedTrial
from kvci.spec import KV_BLOCK_ELEMENTS, Arm
from kvci.taxonomy import INFRASTRUCTURE, Class, Exit

Key = tuple[str, int]
"""Instance and seed."""
NOT_SHOWN = "not shown"
ROTATION = "rotation of quantized caches"


@dataclass(frozen=True)
class ComparedTrial:
    """The values of a trial that a comparison uses; None if a value was not recorded."""

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
    flipped_share: float | None = None
    """The share of the instance's failing tests that pass with the patch."""
    block: str = ""
    """The host and the block of the trial. In one run, the trials of a pair have the same block."""
    answers_sha256: str = ""
    """A digest of the model's answers. One different token gives another digest."""
    doubt: str = ""
    """Why the test output may not come from the test runner; empty if nothing shows it."""
    served: bool = True
    """False if the server failed only in this arm (class A12). The trial then reaches no endpoint.
    """


@dataclass(frozen=True)
class Side:
    """An arm of a run, or an earlier run of another tool."""

    name: str
    run: str
    """The key of the run; empty for a run of another tool. Sides of the same run are paired."""
    kv: str
    total: int
    """Planned trials of this arm."""
    complete: bool
    verified: bool
    trials: dict[Key, ComparedTrial]
    settings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Label -> values; two sides are comparable if their settings are equal."""
    arm: str = ""
    arms: tuple[str, ...] = ()
    """All arms of the run in the order of the specification. The baseline is first, and the claims
    have the same order."""
    alpha: float = 0.05
    margin: float | None = None
    primary: str = "resolved"

    @property
    def kv_type(self) -> str:
        """The K/V types of the arm, without its flags."""
        return self.kv.split()[0]


def missing_arms(sides: Iterable[Side]) -> list[str]:
    """Return the arms that belong to the sides' runs and are not among the sides."""
    present: dict[str, set[str]] = defaultdict(set)
    planned: dict[str, tuple[str, ...]] = {}
    for side in sides:
        present[side.run].add(side.arm)
        planned[side.run] = side.arms
    return [arm for run, arms in planned.items() for arm in arms if arm not in present[run]]


def side_of(record: Record | Imported) -> Side | None:
    """Return the side of a record.

    Return None for an imported row that has counts without trials, because counts give no pairs.
    """
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
        trials={(trial.instance, 0): _imported_trial(trial) for trial in derived.trials},
        settings=derived.settings,
    )


NOT_COMPARED = {
    *("arms", "spec_sha256", "model_sha256", "dataset_sha256"),  # differ by design, or added below
    *("alpha", "margin", "primary", "block_size", "order_seed"),  # these fields change no trial
}
"""Fields of a specification that may differ between two sides."""
LABELS = {"max_steps": "step limit", "command_s": "command timeout s"}
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
"""Label -> field of the effective configuration that must be equal on both sides."""


def _cpu_limit(sandbox: str) -> str:
    """Return whether the sandbox of a record limited the CPUs of a trial.

    bubblewrap's line in a manifest names the limits that hold. kvci 0.1.0 limited no CPUs there.
    """
    return "holds" if sandbox.startswith("docker") or "CPUs" in sandbox else "does not hold"


def own_side(record: Record) -> Side:
    """Return the side of one arm of a kvci run."""
    spec = record.spec
    settings: dict[str, set[str]] = {
        LABELS.get(key, key.replace("_", " ")): {
            "none" if value is None else value if isinstance(value, str) else json.dumps(value)
        }
        for key, value in spec.items()
        if key not in NOT_COMPARED
    }
    effective = record.effective
    settings |= {
        "model sha256": {spec["model_sha256"][:12]},
        "dataset": {record.dataset},
        "dataset sha256": {spec["dataset_sha256"][:12]},
        "agent": {f"kvci {record.kvci}"},
        "host": {trial.host for trial in record.counted},
        "GPU": {record.gpu or "none"},
        "CPU limit": {_cpu_limit(sandbox) for sandbox in record.sandbox.split("; ")},
    }
    for label, name in EFFECTIVE.items():
        values = {getattr(one, name) for one in effective}
        shown = {NOT_SHOWN if value is None else str(value) for value in values}
        settings[label] = shown or {NOT_SHOWN}
    if not quantized(record.kv):
        del settings[ROTATION]
    arms = tuple(Arm.model_validate(arm).id for arm in spec["arms"])
    return Side(
        name=record.row_id,
        run=" ".join(record.key),
        kv=record.kv,
        total=record.total,
        complete=record.complete,
        verified=all(trial.verified for trial in record.counted),
        trials={(trial.instance, trial.seed): _own_trial(trial) for trial in record.counted},
        settings={label: tuple(sorted(values)) for label, values in settings.items() if values},
        arm=record.arm,
        arms=arms,
        alpha=float(spec["alpha"]),
        margin=spec["margin"],
        primary=str(spec["primary"]),
    )


def quantized(kv: str) -> bool:
    """True if the type of K or of V has blocks. llama.cpp may rotate such a cache."""
    return any(KV_BLOCK_ELEMENTS.get(side, 1) > 1 for side in kv.split()[0].split("/"))


def _own_trial(trial: RecordedTrial) -> ComparedTrial:
    """Return the compared values of a trial of kvci.

    A stage that the trial did not reach counts as failed: no patch applied, no test passed.
    """
    passed, total = trial.fail_to_pass
    return replace(
        _common(trial, (trial.cls,), str(trial.cls)),
        overflowed=trial.exit is Exit.CONTEXT_OVERFLOW,
        applies=bool(trial.applies),
        flipped_share=passed / total if total else 0.0,
        block=f"{trial.host} block {trial.block} of {trial.shard}",
        answers_sha256=trial.answers_sha256,
        doubt=trial.doubt or "",
        served=trial.cls is not Class.A12,
    )


def _imported_trial(trial: ImportedTrial) -> ComparedTrial:
    return replace(_common(trial, trial.classes, trial.label), overflowed=trial.overflowed)


def _common(
    trial: RecordedTrial | ImportedTrial, classes: tuple[Class, ...], label: str
) -> ComparedTrial:
    """Return the values that a trial of any tool has; `classes` has all its possible classes."""
    return ComparedTrial(
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
