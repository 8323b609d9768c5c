"""Find trials that are in two records. One run under two names looks like a replication."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

from kvci.record.schema import Record, RecordedTrial
from kvci.units import counted


def copied_trials(new: Sequence[Record], records: Iterable[Record]) -> list[str]:
    """Return a line for each pair of records that share trials, if one of them is new."""
    holders: dict[tuple[object, ...], dict[str, RecordedTrial]] = defaultdict(dict)
    for record in records:
        for trial in record.trials:
            for mark in _marks(trial):
                holders[mark][record.row_id] = trial
    shared: dict[tuple[str, str], set[tuple[str, int]]] = defaultdict(set)
    for rows in holders.values():
        for one, other in combinations(sorted(rows), 2):
            shared[one, other].add((rows[one].instance, rows[one].seed))
    added = {record.row_id for record in new}
    return [
        f"{one} and {other} share {counted(len(trials), 'trial')}; a run has one row for each arm"
        for (one, other), trials in sorted(shared.items())
        if added & {one, other}
    ]


def _marks(trial: RecordedTrial) -> Iterator[tuple[object, ...]]:
    """Yield what no two trials with an answer have in common.

    These are the digest of the conversation, which has the times of its answers, and all times of
    the trial.
    """
    if trial.answer_tokens:
        if trial.trajectory_sha256:
            yield (trial.trajectory_sha256,)
        spent = (trial.solve_s, trial.prefill_s, trial.decode_s)
        yield (trial.instance, trial.seed, trial.start, trial.end, *spent)
