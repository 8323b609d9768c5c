"""Compute a digest of the training conversations for the model's file.

The model fits only conversations like these.
"""

import hashlib
import json
import random
from collections.abc import Iterator

from kvci.agent.protocol import Message
from kvci.tasks.calibration import VERSION, generate
from training.simulated import Simulated
from training.teacher import FUNCTIONS_MAX, answers, conversation

NAMES = {
    "suite": "kvci.suite_version",
    "conversations": "kvci.conversations_sha256",
    "seed": "kvci.training_seed",
}
SHORT_CONVERSATIONS = 20


def taught() -> dict[str, str]:
    """Return the suite's version and a digest of sample conversations, by their names in the file.

    The digest changes with the prompt, the protocol, the tasks, and the form in which the agent
    shows a command's output.
    """
    digest = hashlib.sha256()
    for messages in sample_conversations():
        digest.update(json.dumps(messages).encode())
    return {NAMES["suite"]: VERSION, NAMES["conversations"]: digest.hexdigest()}


def sample_conversations() -> Iterator[list[Message]]:
    """Yield the conversations of the digest.

    The last conversation reads as much output as the longest conversation in training. So the
    digest also changes if a new limit cuts long output.
    """
    for seed in range(SHORT_CONVERSATIONS):
        instance = generate("train", seed, 3 + seed, 1 + seed % 3)
        turns = answers(instance, random.Random(seed))
        yield conversation(instance, Simulated(instance), turns)
    instance = generate("train", SHORT_CONVERSATIONS, FUNCTIONS_MAX)
    yield conversation(instance, Simulated(instance), answers(instance))
