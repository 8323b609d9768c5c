"""Check that the files of a trial belong together, without the dataset.

These are its conversation, its patch, its test log and the log of its server. A dishonest runner
that changes one of them after the run has to change the others too.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

from kvci.chain import digest_of, first_break
from kvci.files import sha256_of
from kvci.record.redact import PLACEHOLDERS
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import Outcome
from kvci.rundir.trajectory import read

TIMING = re.compile(r"\b(prompt )?eval time = *([\d.]+) ms / *(\d+) (?:tokens|runs)")
LOST_LINES_MAX = 2
"""A server that is killed may not write the timings of its last answer, which are two lines."""
Timings = Counter[tuple[bool, str, int]]
"""How often a log or a conversation has the same time and number of tokens. The first value is true
for prompts."""


def is_redacted(text: str) -> bool:
    return any(shown in text for shown in PLACEHOLDERS)


def untied(directory: RunDirectory) -> Iterator[str]:
    """Yield a line for each trial whose files contradict each other."""
    left = cache(lambda server: _logged(directory.path / "servers" / f"{server}.log"))
    for one in directory.outcomes():
        folder = directory.trial(one.trial)
        trajectory = folder / "trajectory.jsonl"
        if not one.has_patch or not trajectory.exists():
            continue  # `recompute.py` reports a conversation that is missing
        lines = trajectory.read_text().splitlines()
        answers = _answered(lines)
        if problem := _tie_problem(one, folder, lines) or _timing_problem(
            one, answers, left(one.server)
        ):
            yield f"{one.trial}: {problem}"
        left(one.server).subtract(answers)


def loose(outcomes: Iterable[Outcome]) -> list[str]:
    """Return a line if conversations do not name the patch with which they ended."""
    with_patch = [one for one in outcomes if one.has_patch]
    if not (without := sum(not one.trajectory_sha256 for one in with_patch)):
        return []
    return [
        f"the conversations of {without} of {len(with_patch)} trials do not name their patches, as "
        "in evidence of an earlier kvci"
    ]


def unshown(directory: RunDirectory) -> Iterator[str]:
    """Yield a line for each arm with patches that have lines which no message shows."""
    prompt, arms = directory.spec.prompt, Counter[str]()
    for one in directory.outcomes():
        folder = directory.trial(one.trial)
        trajectory, patch = folder / "trajectory.jsonl", folder / "patch.diff"
        if one.has_patch and trajectory.exists() and patch.exists():
            text = _shown(trajectory.read_text().splitlines(), prompt, one)
            added = re.findall(r"^\+(?!\+\+ )(.*)", patch.read_text(errors="replace"), re.M)
            arms[one.arm] += any(line.strip() not in text for line in added)
    for arm, count in arms.items():
        if count:
            yield (
                f"{arm}: the patches of {count} trials have lines that no message of their "
                "conversations shows; a command like sed can write such lines"
            )


def _tie_problem(one: Outcome, folder: Path, lines: Sequence[str]) -> str:
    """Return how the files contradict each other; empty if they do not, or if they are not tied."""
    if not one.trajectory_sha256:
        return ""
    if not lines:
        return "its conversation is empty"
    last, log = json.loads(lines[-1]), folder / "grade" / "test_output.txt"
    if (last.get("patch_sha256"), last.get("patch_bytes")) != (one.patch_sha256, one.patch_bytes):
        return "its conversation did not end with its patch"
    if number := first_break(lines, is_redacted):
        return f"line {number} of its conversation does not follow the line before it"
    if not is_redacted(lines[-1]) and digest_of(lines[-1]) != one.trajectory_sha256:
        return "its conversation does not have its recorded digest"
    content = log.read_bytes() if log.exists() else b""
    if is_redacted(content.decode(errors="replace")):
        return ""
    digest = sha256_of(content) if log.exists() else ""
    return "" if digest == one.log_sha256 else "its test log does not have its recorded digest"


def _timing_problem(one: Outcome, answers: Timings, left: Timings) -> str:
    """Return how many answers are not in the server's log; empty if the log has no timings."""
    missing = (answers - left).total()
    if not left or missing <= LOST_LINES_MAX:
        return ""
    return f"the log of its server {one.server} does not show its answers"


def _logged(log: Path) -> Timings:
    """Return the timings in a server's log; empty if there is no log, or if it shows none."""
    text = log.read_text(errors="replace") if log.is_file() else ""
    return Counter((bool(p), f"{float(ms):.2f}", int(n)) for p, ms, n in TIMING.findall(text))


def _answered(lines: Sequence[str]) -> Timings:
    """Return the timings of a conversation's answers."""
    found: Timings = Counter()
    for line in lines:
        timings = json.loads(line).get("timings") or {}
        for kind, name in ((True, "prompt"), (False, "predicted")):
            if {f"{name}_ms", f"{name}_n"} <= timings.keys():
                found[kind, f"{timings[f'{name}_ms']:.2f}", timings[f"{name}_n"]] += 1
    return found


def _shown(lines: Sequence[str], prompt: str, one: Outcome) -> str:
    """Return the text of all messages and commands of a conversation."""
    entries = [json.loads(line) for line in lines]
    commands, _ = read([entry for entry in entries if "step" in entry], prompt, one.exit)
    messages = [str(entry["message"]["content"]) for entry in entries if "message" in entry]
    return "\n".join([*messages, *commands])
