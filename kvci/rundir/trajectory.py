"""Read a stored conversation: the model's answers, the actions in them, and how it ended."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kvci.agent.conversation import Answer, Conversation
from kvci.agent.ends import Ended, FormatError
from kvci.agent.protocol import PROTOCOLS
from kvci.spec import Spec
from kvci.taxonomy import LAST_ACTIONS, Exit

FROM_OUTSIDE = {Exit.TIME_LIMIT, Exit.CONTEXT_OVERFLOW}
"""Exits that no answer shows. For a conversation that ended so, the last request has no answer."""


def _same(action: str) -> str:
    return action


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


def replay(
    trajectory: Path, spec: Spec, ended: Exit, seen_as: Callable[[str], str] = _same
) -> Conversation:
    """Apply the agent's own rules to the stored answers; return the conversation that they give.

    Its exit is KVCI_FAILED if no rule ends it here. `ended` is the recorded exit; it stands for
    what no answer shows: an end from outside, and a last answer that the server could not parse.
    Each action counts as what `seen_as` returns for it.
    """
    talk, after_answer = Conversation(), True
    try:
        for entry in map(json.loads, trajectory.read_text().splitlines()):
            if "step" in entry:
                _step(talk, entry, spec, seen_as)
            elif "message" in entry and not after_answer:
                _unparsed(talk, spec)  # only the message that says so is stored
            after_answer = "step" in entry
        talk.check_limits(spec)
        if ended is Exit.FORMAT_ERRORS:
            _unparsed(talk, spec)
        if ended in FROM_OUTSIDE:
            talk.steps += 1
            raise Ended(ended)
    except Ended as end:
        talk.exit = end.exit
    return talk


def _step(
    talk: Conversation, entry: dict[str, Any], spec: Spec, seen_as: Callable[[str], str]
) -> None:
    talk.check_limits(spec)
    talk.steps += 1
    names = ("message", "cut", "prompt_tokens", "answer_tokens", "timings")
    answer = Answer(**{name: entry[name] for name in names})
    talk.count(answer)
    try:
        action = talk.action(answer, spec)
    except FormatError as error:
        talk.reject(str(error))
    else:
        talk.act(seen_as(action))


def _unparsed(talk: Conversation, spec: Spec) -> None:
    talk.check_limits(spec)
    talk.steps += 1
    talk.reject("the server could not parse the answer")


def actions(trajectory: Path, prompt: str, ended: Exit) -> tuple[str, ...]:
    """Return the model's last actions, as many as the check for loops needs."""
    found, _ = read(answers(trajectory), prompt, ended)
    return tuple(found[-LAST_ACTIONS:])
