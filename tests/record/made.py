"""A record of one arm with two instances: one is resolved, and the grading of the other failed."""

from typing import Any

from kvci.record.schema import EvidenceFiles, Record, RecordedTrial
from kvci.serve.effective import Effective
from kvci.spec import Spec
from kvci.taxonomy import Class, Verdict
from tests.run.made import outcome

SPEC = Spec.model_validate(
    {
        "model": {"name": "small", "path": "/x/small.gguf", "weights": "Q4_K_M"},
        "arms": ["f16/f16", "q8_0/q8_0"],
        "dataset": "calibration:count=2",
        "context": 2048,
        "slots": 2,
    }
)
EFFECTIVE = Effective(
    kv_type="q8_0/q8_0",
    context_per_slot=4096,
    slots=1,
    cells=4096,
    unified=False,
    flash_attention="on",
    kernel_path="cpu",
    rotation="on",
    kv_mib=12.75,
    kv_device="CPU",
    gpu=False,
    graph_splits=1,
    build="b1",
    weights_mib=247.82,
    compute_mib=21.81,
)


def record(
    position: int = 1, start: str = "2026-02-01T10:00:00Z", trials: int = 2, **other: Any
) -> Record:
    arm = SPEC.arms[position].id
    stamp = start.translate({ord(c): None for c in "-:Z"}).replace("T", "_")
    failed = {"verdict": Verdict.GRADING_FAILED, "cls": Class.I3, "patch_bytes": 0}
    both = (outcome(arm, "a"), outcome(arm, "b", **failed))
    fields: dict[str, Any] = {
        "row_id": f"calibration-small-kv-{arm}-{stamp}",
        "run_id": f"calibration-small-{stamp}",
        "start": start,
        "dataset": SPEC.dataset_name,
        "arm": arm,
        "position": position,
        "spec": SPEC.identity("1" * 64, "2" * 64),
        "spec_sha256": SPEC.hash("1" * 64, "2" * 64),
        "host": "0123456789ab",
        "gpu": "",
        "kvci": "0.1.0",
        "python": "3.11.7",
        "sandbox": "bwrap, cgroup v1",
        "planned": ("a", "b"),
        "effective": (EFFECTIVE,),
        "trials": tuple(RecordedTrial.model_validate(o.model_dump()) for o in both[:trials]),
        "evidence": EvidenceFiles(files={}),
    }
    return Record.model_validate(fields | other)
