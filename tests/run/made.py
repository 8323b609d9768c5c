"""Make outcomes for tests."""

from typing import Any
from zlib import crc32

from kvci.rundir.documents import Outcome
from kvci.taxonomy import Class, Exit, Verdict


def outcome(arm: str, instance: str, **other: Any) -> Outcome:
    """Return the outcome of a resolved trial, with the fields of `other` changed."""
    fields: dict[str, Any] = {
        "arm": arm,
        "instance": instance,
        "seed": 0,
        "shard": "1/1",
        "block": 0,
        "host": "0123456789ab",
        "start": "2026-01-01T00:00:00Z",
        "end": "2026-01-01T00:01:00Z",
        "attempts": 1,
        "server_build": "b1",
        "verified": True,
        "exit": Exit.SUBMITTED,
        "detail": "",
        "verdict": Verdict.RESOLVED,
        "cls": Class.OK,
        "why": "verdict resolved",
        "steps": 3,
        "prefill_tokens": 100,
        "prefill_s": 0.5,
        "answer_tokens": 30,
        "decode_s": 1.5,
        "depth_tokens": 130,
        "loops": 0,
        "malformed": 0,
        "solve_s": 3 + crc32(f"{arm} {instance}".encode()) % 1000 / 1000,  # no two are equal
        "eval_s": 1.0,
        "applies": True,
        "fail_to_pass": (1, 1),
        "pass_to_pass": (3, 3),
        "patch_sha256": "0" * 64,
        "patch_bytes": 10,
    }
    return Outcome.model_validate(fields | other)
