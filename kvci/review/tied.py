"""Check that the files of a trial belong together, without the dataset.

These are its conversation, its patch and its test log. A dishonest runner that changes one of them
after the run has to change the others too.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from kvci.chain import digest_of, first_break
from kvci.files import sha256_of
from kvci.record.redact import PLACEHOLDERS
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import TEST_LOG, Outcome
from kvci.rundir.trajectory import read
from kvci.units import counted


def is_redacted(text: str) -> bool:
    return any(shown in text for shown in PLACEHOLDERS)


def untied(directory: RunDirectory) -> Iterator[str]:
    """Yield a line for each trial whose files contradict each other."""
    for one in directory.outcomes():
        folder = directory.trial(one.trial)
        trajectory = folder / "trajectory.jsonl"
        if not one.has_patch or not trajectory.exists():
            continue  # `recompute.py` reports a conversation that is missing
        lines = trajectory.read_text().splitlines()
        if problem := _tie_problem(one, folder, lines):
            yield f"{one.trial}: {problem}"


def loose(outcomes: Iterable[Outcome]) -> list[str]:
    """Return a line if conversations do not name the patch with which they ended."""
    with_patch = [one for one in outcomes if one.has_patch]
    if not (without := sum(not one.trajectory_sha256 for one in with_patch)):
        return []
    return [
        f"the conversations of {without} of {len(with_patch)} trials do not name their patches, as "
        "in evidence of an earlier kvci"
    ]


def unchained(parts: Iterable[RunDirectory]) -> list[str]:
    """Return a line if redaction prevents the check of digests."""
    trials = lines = logs = 0
    for part in parts:
        for one in part.outcomes():
            folder = part.trial(one.trial)
            trajectory, log = folder / "trajectory.jsonl", folder / "grade" / TEST_LOG
            if one.has_patch and trajectory.exists():
                redacted = sum(map(is_redacted, trajectory.read_text().splitlines()))
                lines, trials = lines + redacted, trials + bool(redacted)
                logs += log.exists() and is_redacted(log.read_text(errors="replace"))
    if not lines + logs:
        return []
    return [
        f"that nothing was changed in {counted(lines, 'redacted line')} of the conversations of "
        f"{counted(trials, 'trial')}, and in {counted(logs, 'redacted test log')}: these digests "
        "cannot be checked"
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
    last, log = json.loads(lines[-1]), folder / "grade" / TEST_LOG
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


def _shown(lines: Sequence[str], prompt: str, one: Outcome) -> str:
    """Return the text of all messages and commands of a conversation."""
    entries = [json.loads(line) for line in lines]
    commands, _ = read([entry for entry in entries if "step" in entry], prompt, one.exit)
    messages = [str(entry["message"]["content"]) for entry in entries if "message" in entry]
    return "\n".join([*messages, *commands])
