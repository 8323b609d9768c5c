"""Compare a run with what GitHub knows about its workflow runs: what was asked, and when."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime

from kvci.github import Ran
from kvci.record.schema import Record, RecordedTrial
from kvci.review.times import CLOCKS
from kvci.units import counted

RUNS_MAX = 100
"""The maximum number of workflow runs for which a review asks GitHub. A run of 100 nights has so
many. A job may send about a thousand requests in an hour."""
Lookup = Callable[[int], Ran | None]
"""A function that returns what GitHub knows about a workflow run, or None."""


class TooManyLookups(Exception):
    """The review has asked GitHub for `RUNS_MAX` workflow runs."""


def limited(lookup: Lookup) -> Lookup:
    """Return a lookup that asks once for each workflow run, and raises TooManyLookups at the limit.

    All runs of a pull request share it.
    """
    known: dict[int, Ran | None] = {}

    def find(number: int) -> Ran | None:
        if number not in known:
            if len(known) == RUNS_MAX:
                raise TooManyLookups
            known[number] = lookup(number)
        return known[number]

    return find


def without_workflow(arms: Sequence[Record]) -> list[str]:
    """Return a line if trials name no workflow run."""
    trials = [trial for record in arms for trial in record.trials]
    if not (count := sum(not trial.workflow_run for trial in trials)):
        return []
    return [
        f"{arms[0].run_id}: {count} of {counted(len(trials), 'trial')} name no workflow run, so "
        "only their runner knows when they ran, and what was asked before that"
    ]


def compare_with_github(
    arms: Sequence[Record], asked: str, lookup: Lookup
) -> tuple[list[str], list[str]]:
    """Return the contradictions between a run and its workflow runs, and what is not known.

    `asked` is the digest of what the evidence says was asked. A rerun is planned by its runner.
    """
    name, trials = arms[0].run_id, [trial for record in arms for trial in record.trials]
    numbers = sorted({trial.workflow_run for trial in trials} - {""}, key=int)
    problems, unknown = [], []
    for done, number in enumerate(numbers):
        try:
            ran = lookup(int(number))
        except TooManyLookups:
            unknown.append(
                f"{name} names {counted(len(numbers), 'workflow run')}, and {done} of them were "
                f"read; a review reads {RUNS_MAX}"
            )
            break
        if not ran:
            unknown.append(f"{name} names the workflow run {number}, which is not here")
            continue
        own = [trial for trial in trials if trial.workflow_run == number]
        problems += [f"{name}: {line}" for line in _outside(own, ran, number)]
        if arms[0].rerun:
            continue
        if not ran.asked:
            unknown.append(f"the workflow run {number} of {name} does not show what was asked")
        elif asked not in ran.asked:
            problems.append(
                f"{name}: its specification is not what the workflow run {number} asked for"
            )
    return problems, unknown


def _outside(trials: Iterable[RecordedTrial], ran: Ran, number: str) -> Iterator[str]:
    first, last = (datetime.fromisoformat(at) for at in (ran.created, ran.updated))
    for one in trials:
        start, end = datetime.fromisoformat(one.start), datetime.fromisoformat(one.end)
        if not first - CLOCKS <= start <= end <= last + CLOCKS:
            yield (
                f"{one.trial}: it lasts from {one.start} to {one.end}, but the workflow run "
                f"{number} from {ran.created} to {ran.updated}"
            )
