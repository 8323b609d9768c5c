"""Find answers in the logs of servers that belong to no trial, and logs without trials."""

from collections.abc import Iterator

from kvci.review.served import Steps, Timings, logged, steps_of, timings_of
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import Outcome
from kvci.units import counted


def unaccounted(directory: RunDirectory) -> Iterator[str]:
    """Yield a line for each arm whose logs and trials do not have the same answers.

    A runner that removes trials and runs them again leaves such logs. So does a run with an attempt
    that infrastructure ended, or that was interrupted, because kvci keeps no conversation of it.
    """
    for arm in directory.spec.arms:
        kept = list(_kept(directory, arm.id))
        logs = {log.stem: logged(log) for log in directory.server_logs(arm.id)}
        shown, held = Timings(), Timings()
        for timings in logs.values():
            shown += timings
        for _, steps in kept:
            held += timings_of(steps)
        if not shown:
            continue
        warmed_up = sum(map(bool, logs.values()))  # kvci asks each server for one answer itself
        last = max(int(name.rpartition(".")[2]) for name in logs)
        found = (
            (_answers(shown - held) - warmed_up, "answer", "in its server logs without a trial"),
            (_answers(held - shown), "answer", "of its trials without a server log"),
            (len(logs.keys() - {one.server for one, _ in kept}), "server log", "without a trial"),
            (last + 1 - len(logs), "server log", "missing"),
        )
        if lines := [f"{counted(count, noun)} {what}" for count, noun, what in found if count > 0]:
            again = counted(sum(max(one.attempts - 1, 0) for one, _ in kept), "earlier attempt")
            yield (
                f"{arm.id}: {', '.join(lines)}; its trials report {again}. If the run was not "
                "interrupted either, trials or answers were removed"
            )


def _kept(directory: RunDirectory, arm: str) -> Iterator[tuple[Outcome, Steps]]:
    """Yield all trials of an arm, also superseded ones, with their answers."""
    for path in directory.outcome_files():
        if path.parts[-4] == arm:
            yield Outcome.read(path), steps_of(path.parent)


def _answers(timings: Timings) -> int:
    """Return the number of answers; each has one timing that is not of its prompt."""
    return sum(count for (prompt, *_), count in timings.items() if not prompt)
