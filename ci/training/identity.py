"""What a calibration model was taught, as digests in its file: it fits only what it has seen."""

import hashlib
import json
import random
from collections.abc import Iterator

from kvci.agent.protocol import Message
from kvci.tasks.calibration import VERSION, generate
from training.simulated import Simulated
from training.teacher import FUNCTIONS_MAX, conversation, turns

NAMES = {
    "suite": "kvci.suite_version",
    "conversations": "kvci.conversations_sha256",
    "seed": "kvci.training_seed",
}
SHOWN = 20
"""Conversations in the digest, beside the long one."""


def taught() -> dict[str, str]:
    """The suite's version, and a digest of conversations: the prompt, the protocol, the tasks, what
    the agent shows of a command's output. If one of them changes, so does the digest."""
    digest = hashlib.sha256()
    for talk in shown():
        digest.update(json.dumps(talk).encode())
    return {NAMES["suite"]: VERSION, NAMES["conversations"]: digest.hexdigest()}


def shown() -> Iterator[list[Message]]:
    """The conversations in the digest; the last one reads as much as any that training has, so that
    a limit which cuts it is seen."""
    for seed in range(SHOWN):
        one = generate("train", seed, 3 + seed, 1 + seed % 3)
        yield conversation(one, Simulated(one), turns(one, random.Random(seed)))
    one = generate("train", SHOWN, FUNCTIONS_MAX)
    yield conversation(one, Simulated(one), turns(one))
