"""Read a stored conversation: the model's answers, and the actions in them."""

import json
from pathlib import Path
from typing import Any

from kvci.agent.ends import FormatError
from kvci.agent.protocol import PROTOCOLS
from kvci.taxonomy import LAST_ACTIONS, Exit


def answers(trajectory: Path) -> list[dict[str, Any]]:
    """Return the entries of a trajectory that contain the model's answers."""
    entries = map(json.loads, trajectory.read_text().splitlines())
    return [entry for entry in entries if "step" in entry]


def read(steps: list[dict[str, Any]], prompt: str, ended: Exit) -> tuple[list[str], int]:
    """Return the actions that the agent parsed, and the number of malformed answers."""
    if steps and steps[-1]["cut"] and ended in (Exit.ANSWER_LIMIT, Exit.CONTEXT_OVERFLOW):
        steps = steps[:-1]  # this answer ended the conversation, so the agent never parsed it
    found, malformed = [], 0
    for entry in steps:
        try:
            found.append(PROTOCOLS[prompt].action(entry["message"]))
        except FormatError:
            malformed += 1
    return found, malformed


def actions(trajectory: Path, prompt: str, ended: Exit) -> tuple[str, ...]:
    """Return the model's last actions, as many as the check for loops needs."""
    found, _ = read(answers(trajectory), prompt, ended)
    return tuple(found[-LAST_ACTIONS:])
