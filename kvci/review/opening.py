"""Check that a conversation begins with the prompt and the seed that kvci gives the model."""

import json
from pathlib import Path

from kvci.agent.loop import opening
from kvci.chain import BEFORE, digest_of, line_of
from kvci.review.tied import is_redacted
from kvci.rundir.documents import Outcome
from kvci.tasks.row import Row


def opening_difference(row: Row, one: Outcome, trajectory: Path, prompt: str) -> str:
    """Return how a conversation's first line differs from what kvci writes; empty if it does not.

    The second line has the digest of the first line before redaction. A redacted first line of
    kvci 0.1.0, which wrote no digests, cannot be checked.
    """
    if not one.has_patch or not trajectory.exists():
        return ""  # `recompute.py` reports a conversation that is missing
    lines = trajectory.read_text().splitlines()
    expected = opening(prompt, row.problem_statement, one.seed)
    first, second = (json.loads(line) for line in [*lines, "{}", "{}"][:2])
    if {key: first.get(key) for key in expected} == expected:
        return ""
    if (
        lines
        and is_redacted(lines[0])
        and second.get(BEFORE) in (None, digest_of(line_of(expected)))
    ):
        return ""
    return "its conversation does not begin with the prompt and the seed of its instance"
