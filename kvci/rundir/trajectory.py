"""A conversation as it was kept: what the model said, and what it did."""

import json
from pathlib import Path
from typing import Any

from kvci.agent.ends import FormatError
from kvci.agent.protocol import PROTOCOLS
from kvci.taxonomy import LAST_ACTIONS, Exit


def answers(trajectory: Path) -> list[dict[str, Any]]:
    """The entries of a conversation that hold what the model said."""
    entries = map(json.loads, trajectory.read_text().splitlines())
    return [entry for entry in entries if "step" in entry]


def read(steps: list[dict[str, Any]], prompt: str, ended: Exit) -> tuple[list[str], int]:
    """The actions as the conversation read them, and how many answers were malformed."""
    if steps and steps[-1]["cut"] and ended in (Exit.ANSWER_LIMIT, Exit.CONTEXT_OVERFLOW):
        steps = steps[:-1]  # it ended the conversation, and was never read
    found, malformed = [], 0
    for entry in steps:
        try:
            found.append(PROTOCOLS[prompt].action(entry["message"]))
        except FormatError:
            malformed += 1
    return found, malformed


def actions(trajectory: Path, prompt: str, ended: Exit) -> tuple[str, ...]:
    """The last things that the model did."""
    found, _ = read(answers(trajectory), prompt, ended)
    return tuple(found[-LAST_ACTIONS:])
