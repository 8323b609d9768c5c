"""Make records of the arms of one run with given ends of the trials, and compare the arms."""

from typing import Any

from kvci.compare.compare import compare
from kvci.compare.findings import Comparison
from kvci.compare.side import Side, side_of
from kvci.record.schema import EvidenceFiles, Record, RecordedTrial
from kvci.spec import Spec
from kvci.taxonomy import Class, Exit, Verdict
from tests.run.made import outcome

ENDS: dict[str, dict[str, Any]] = {
    "ok": {},
    "doubtful": {"doubt": "results outside the markers"},
    "fail": {"verdict": Verdict.TESTS_FAIL, "cls": Class.A11A, "fail_to_pass": (0, 1)},
    "empty": {
        "verdict": Verdict.EMPTY_PATCH,
        "cls": Class.A6,
        "patch_bytes": 0,
        "applies": None,
        "fail_to_pass": (0, 0),
    },
    "unserved": {
        "exit": Exit.SERVER_FAILED,
        "verdict": Verdict.NOT_GRADED,
        "cls": Class.A12,
        "patch_bytes": 0,
        "applies": None,
        "fail_to_pass": (0, 0),
    },
    "loops full": {
        "exit": Exit.CONTEXT_OVERFLOW,
        "verdict": Verdict.EMPTY_PATCH,
        "cls": Class.A2,
        "patch_bytes": 0,
    },
    "infra": {"verdict": Verdict.GRADING_FAILED, "cls": Class.I3},
}


def run(arms: dict[str, list[str]], planned: int | None = None, **asked: Any) -> list[Record]:
    """Return the records of a run.

    `arms` maps K/V and flags to the ends of the trials, instance by instance, seed by seed.
    """
    spec = Spec.model_validate(
        {"model": {"name": "small", "path": "/x"}, "arms": list(arms), "dataset": "d.jsonl"} | asked
    )
    count = planned or max(map(len, arms.values())) // len(spec.seeds)
    names = tuple(f"repo{n % 3}__project-{n}" for n in range(count))
    records = []
    for position, (arm, ends) in enumerate(zip(spec.arms, arms.values(), strict=True)):
        keys = [(name, seed) for name in names for seed in spec.seeds]
        trials = [
            RecordedTrial.model_validate(
                outcome(arm.id, name, seed=seed, answers_sha256=f"{name} {seed} {end}")
                .model_copy(update=ENDS[end])
                .model_dump()
            )
            for (name, seed), end in zip(keys, ends, strict=False)
        ]
        records.append(
            Record(
                row_id=f"d-small-kv-{arm.id}-20260101_000000",
                run_id="r",
                start="2026-01-01T00:00:00Z",
                dataset="d",
                arm=arm.id,
                position=position,
                spec=spec.identity("1" * 64, "2" * 64),
                spec_sha256=spec.hash("1" * 64, "2" * 64),
                host="0123456789ab",
                gpu="",
                kvci="0.1.0",
                python="3.11.7",
                sandbox="bwrap",
                planned=names,
                effective=(),
                trials=tuple(trials),
                evidence=EvidenceFiles(files={}),
            )
        )
    return records


def sides(records: list[Record]) -> list[Side]:
    return [side for record in records if (side := side_of(record))]


def compared(arms: dict[str, list[str]], **asked: Any) -> Comparison:
    return compare(sides(run(arms, **asked)))
