"""What a calibration model was taught, as digests in its file: it fits only what it has seen."""

import hashlib
import json
import random

from kvci.calibration.simulated import Simulated
from kvci.calibration.teacher import conversation, turns
from kvci.tasks.calibration import VERSION, generate

NAMES = {
    "suite": "kvci.suite_version",
    "conversations": "kvci.conversations_sha256",
    "seed": "kvci.training_seed",
}
SHOWN = 20
"""Conversations in the digest."""


def taught() -> dict[str, str]:
    """The suite's version, and a digest of conversations: the prompt, the protocol, the tasks, what
    the agent shows of a command's output. If one of them changes, so does the digest."""
    digest = hashlib.sha256()
    for seed in range(SHOWN):
        one = generate("train", seed, 3 + seed, 1 + seed % 3)
        said = turns(one, random.Random(seed))
        digest.update(json.dumps(conversation(one, Simulated(one), said)).encode())
    return {NAMES["suite"]: VERSION, NAMES["conversations"]: digest.hexdigest()}
