"""Check that the times of trials are possible."""

import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import accumulate

from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import WITHOUT_PATCH, Outcome

CLOCKS = timedelta(minutes=5)
"""The allowed difference between the clocks of two machines."""
ROUNDED = timedelta(seconds=2)
"""The allowed difference on one machine, because a trial's times are whole seconds."""


def time_problems(directory: RunDirectory) -> Iterator[str]:
    """Yield a line for each trial whose times are impossible."""
    began, now = _time(directory.manifest.start), datetime.now(UTC)
    for one in directory.outcomes():
        if problem := _own_problem(one, began, now) or _answer_problem(directory, one):
            yield f"{one.trial}: {problem}"
    for one in directory.superseded():
        if problem := _own_problem(one, began, now):
            yield f"{one.trial}: {problem}"
    yield from _crowded(directory)


def _own_problem(one: Outcome, began: datetime, now: datetime) -> str:
    """Return why a trial cannot have these times in a run that began at `began`; else empty."""
    start, end = _time(one.start), _time(one.end)
    checks = (
        (end < start, f"it ends at {one.end}, before it begins at {one.start}"),
        (end > now + CLOCKS, f"it ends at {one.end}, which is in the future"),
        (start < began - CLOCKS, f"it begins at {one.start}, before its run"),
        (
            timedelta(seconds=one.solve_s) > end - start + ROUNDED,
            f"it takes {one.solve_s} s, but lasts from {one.start} to {one.end}",
        ),
    )
    return next((text for wrong, text in checks if wrong), "")


def _answer_problem(directory: RunDirectory, one: Outcome) -> str:
    """Return that the model answered outside the trial's times; empty if it did not."""
    trajectory = directory.trial(one.trial) / "trajectory.jsonl"
    if one.exit in WITHOUT_PATCH or not trajectory.exists():
        return ""
    first, last = _time(one.start) - ROUNDED, _time(one.end) + ROUNDED
    for entry in map(json.loads, trajectory.read_text().splitlines()):
        for name in ("asked", "answered") if "step" in entry else ():
            if name not in entry:
                return f"its answer {entry['step']} does not say when it was {name}"
            if not first <= datetime.fromtimestamp(entry[name], UTC) <= last:
                return f"its answer {entry['step']} is not between its start and its end"
    return ""


def _crowded(directory: RunDirectory) -> Iterator[str]:
    """Yield a line for each machine that held more conversations at once than a server has slots.

    A run has one server at a time.
    """
    changes: dict[str, list[tuple[datetime, int]]] = defaultdict(list)
    for one in (*directory.outcomes(), *directory.superseded()):
        begins, ends = _time(one.start) + ROUNDED, _time(one.end)
        if one.server and begins < ends:
            changes[one.host] += [(begins, 1), (ends, -1)]
    slots = directory.spec.slots
    for host, found in changes.items():
        at_once = list(accumulate(change for _, change in sorted(found)))
        if (most := max(at_once)) > slots:
            yield f"{most} conversations at once on {host}, but a server has {slots} slots"


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
