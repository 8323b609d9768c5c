"""Check that a run's conversations are those that the logs of its servers show.

A server writes the time and the number of tokens of each prompt and of each answer into its log.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import Outcome
from kvci.units import counted

TIMING = re.compile(r"\b(prompt )?eval time = *([\d.]+) ms / *(\d+) (?:tokens|runs)")
KINDS = ((True, "prompt"), (False, "predicted"))
"""The two timings of an answer. The first value is true for the prompt."""
LOST_LINES_MAX = 2
"""A server that is killed may not write the timings of its last answer, which are two lines."""
Timings = Counter[tuple[bool, str, int]]
"""How often a log or a conversation has the same kind of timing, time and number of tokens."""
Steps = Sequence[dict[str, Any]]
"""The entries of a conversation that have the model's answers."""


def unserved(directory: RunDirectory) -> Iterator[str]:
    """Yield a line for each trial whose answers are not in its server's log.

    No two answers share an entry of the log. `without_times` finds the logs without any entry.
    """
    for server, trials in _by_server(directory):
        if not (left := logged(directory.path / "servers" / f"{server}.log")):
            continue
        for one in trials:
            steps = steps_of(directory.trial(one.trial))
            own = timings_of(steps)
            if one.has_patch and own.total() < len(KINDS) * len(steps):
                yield f"{one.trial}: its conversation has answers without their times"
            elif one.has_patch and (own - left).total() > LOST_LINES_MAX:
                yield f"{one.trial}: the log of its server {server} does not show its answers"
            left.subtract(own)


def without_times(parts: Iterable[RunDirectory]) -> list[Outcome]:
    """Return the trials with answers whose server's log shows no time of any answer."""
    return [
        one
        for part in parts
        for server, trials in _by_server(part)
        if not logged(part.path / "servers" / f"{server}.log")
        for one in trials
        if one.verified and one.has_patch and steps_of(part.trial(one.trial))
    ]


def untimed(trials: Sequence[Outcome]) -> list[str]:
    """Return a line if there are such trials."""
    if not trials:
        return []
    return [
        "the logs of their servers show no times of answers, so nothing ties the conversations of "
        f"{counted(len(trials), 'trial')} to their arm"
    ]


def copied(directory: RunDirectory) -> Iterator[str]:
    """Yield a line for each trial whose answers took as long as those of another trial.

    The times have microseconds, so they are never equal by chance.
    """
    seen: dict[tuple[object, ...], Outcome] = {}
    for one in directory.outcomes():
        timings = [each.get("timings") or {} for each in steps_of(directory.trial(one.trial))]
        times = [each.get(f"{name}_ms") for each in timings for _, name in KINDS]
        other = seen.setdefault((one.instance, *times), one)
        if any(times) and other is not one:
            yield f"{one.trial}: its answers took exactly as long as those of {other.trial}"


def logged(log: Path) -> Timings:
    """Return the timings in a server's log; empty if there is no log, or if it shows none."""
    text = log.read_text(errors="replace") if log.is_file() else ""
    return Counter((bool(p), f"{float(ms):.2f}", int(n)) for p, ms, n in TIMING.findall(text))


def steps_of(trial: Path) -> Steps:
    """Return the answers in a trial's folder; empty if it has no conversation.

    The last line of a conversation may be half a line, if infrastructure ended the trial.
    """
    trajectory, found = trial / "trajectory.jsonl", []
    for line in trajectory.read_text().splitlines() if trajectory.exists() else ():
        with suppress(ValueError):
            found.append(json.loads(line))
    return [entry for entry in found if "step" in entry]


def timings_of(steps: Steps) -> Timings:
    """Return the timings of answers."""
    return Counter(
        (prompt, f"{timings[f'{name}_ms']:.2f}", timings[f"{name}_n"])
        for timings in (each.get("timings") or {} for each in steps)
        for prompt, name in KINDS
        if {f"{name}_ms", f"{name}_n"} <= timings.keys()
    )


def _by_server(directory: RunDirectory) -> Iterable[tuple[str, list[Outcome]]]:
    found: dict[str, list[Outcome]] = defaultdict(list)
    for one in directory.outcomes():
        found[one.server].append(one)
    return found.items()
