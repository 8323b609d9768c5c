"""Recompute from a stored conversation how it ended, and what its outcome counts."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path

from kvci.agent.conversation import Conversation
from kvci.files import sha256_of
from kvci.review.tied import is_redacted
from kvci.review.times import ROUNDED
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import Outcome
from kvci.rundir.trajectory import answers, replay
from kvci.spec import Spec
from kvci.taxonomy import Exit

ROUNDED_S = 0.002
"""The allowed difference, because outcomes round seconds to thousandths."""
COUNTED = ("malformed", "prefill_tokens", "answer_tokens", "depth_tokens", "prefill_s", "decode_s")
TEMPLATE_TOKENS = 1024
"""A chat template adds fewer tokens to a prompt. All other text has at most one for each byte."""


def conversation_problem(one: Outcome, trajectory: Path, spec: Spec) -> str:
    """Return how a trial's outcome differs from its conversation; empty if they agree."""
    lines = trajectory.read_text().splitlines()
    if (end := json.loads(lines[-1]).get("exit", "without an exit")) != one.exit:
        return f"its exit is {one.exit}, but its conversation ends with {end}"
    problems = [_difference(one, talk) for talk in readings(one, trajectory, spec)]
    if "" not in problems:
        return problems[0]
    if not all(step["answer_tokens"] <= spec.max_tokens for step in answers(trajectory)):
        return f"its run allows {spec.max_tokens} tokens for an answer, and an answer has more"
    lasted = datetime.fromisoformat(one.end) - datetime.fromisoformat(one.start) + ROUNDED
    if one.exit is Exit.TIME_LIMIT and lasted < timedelta(seconds=spec.trial_s):
        return f"its exit is {one.exit}, but it lasts {lasted.seconds} s of {spec.trial_s:.0f} s"
    # Only a real server, which `spec.verified` means, refuses a request because of its length.
    most = _tokens_max(one, lines) if spec.verified else spec.context
    if one.exit is Exit.CONTEXT_OVERFLOW and most < spec.context:
        return f"its exit is {one.exit}, but it has at most {most} tokens of {spec.context}"
    return ""


def readings(one: Outcome, trajectory: Path, spec: Spec) -> list[Conversation]:
    """Return the conversations that the stored answers may have been, as kvci can read them now.

    Redaction may make different actions equal. If the outcome is not that of the actions as they
    are shown, there is a second reading: all redacted actions differ, except that they repeat as
    often as the outcome says, if that is possible.
    """
    shown = replay(trajectory, spec, one.exit)
    if not any(map(is_redacted, shown.actions)) or not _difference(one, shown):
        return [shown]
    number = count()
    apart = replay(
        trajectory, spec, one.exit, lambda it: f"{it} {next(number)}" if is_redacted(it) else it
    )
    most = one.steps if shown.exit is Exit.LOOP else shown.loops
    if apart.loops <= one.loops <= most:
        apart.loops = one.loops
    return [shown, apart]


def hidden_repetitions(directories: Iterable[RunDirectory]) -> list[str]:
    """Return a line for each arm with trials whose repetitions redaction may hide."""
    arms = Counter(
        one.arm
        for directory in directories
        for one in directory.outcomes()
        if one.has_patch
        and (trajectory := directory.trial(one.trial) / "trajectory.jsonl").exists()
        and len(readings(one, trajectory, directory.spec)) > 1
    )
    return [
        f"{arm}: redaction hides how often the actions of {number} trials repeat, so their loops "
        "and classes were not recomputed"
        for arm, number in arms.items()
    ]


def _difference(one: Outcome, talk: Conversation) -> str:
    """Return how an outcome differs from a reading of its conversation; empty if it does not."""
    if talk.exit is not one.exit:
        gives = "no end" if talk.exit is Exit.KVCI_FAILED else talk.exit
        return f"its exit is {one.exit}, but its answers give {gives} after {talk.steps} steps"
    # The time may end before the last request, or during it.
    if one.steps not in {talk.steps, talk.steps - (one.exit is Exit.TIME_LIMIT)}:
        return f"it counts {one.steps} steps, but its conversation has {talk.steps}"
    for name in COUNTED:
        recorded, found = getattr(one, name), getattr(talk, name)
        if not abs(recorded - found) <= ROUNDED_S:  # written so that NaN differs, too
            return f"{name} is {recorded}, but its conversation gives {found:.12g}"
    if one.loops != talk.loops:
        return f"it counts {one.loops} loops, but its conversation has {talk.loops}"
    contents = json.dumps(talk.answers, sort_keys=True)
    known = one.answers_sha256 and not is_redacted(contents)
    if known and sha256_of(contents.encode()) != one.answers_sha256:
        return "the model's answers do not have their recorded digest"
    return ""


def _tokens_max(one: Outcome, lines: Sequence[str]) -> int | float:
    """Return how many tokens the last request may have had: those of the last answer, and more.

    The text after that answer has at most one token for each byte. Redaction may shorten it.
    """
    steps = [number for number, line in enumerate(lines) if "step" in json.loads(line)]
    text = "".join(lines[steps[-1] if steps else 0 : -1])
    more = float("inf") if is_redacted(text) else len(text)
    return one.depth_tokens + more + TEMPLATE_TOKENS
