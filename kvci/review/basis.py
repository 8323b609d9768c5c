"""Say what a review recomputes from a run's files, and what rests on the runner's word alone."""

from collections import Counter
from collections.abc import Iterable, Sequence

from kvci.review.excluded import ended
from kvci.review.invalid import shown_invalid
from kvci.review.verdicts import shown
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import Outcome
from kvci.rundir.trajectory import FROM_OUTSIDE, answers
from kvci.taxonomy import Class, Exit, titled
from kvci.units import counted

Trials = list[tuple[RunDirectory, Outcome]]


def recomputed(parts: Sequence[RunDirectory], verdicts: bool, without_times: int) -> list[str]:
    """Return what was recomputed. `verdicts` is false if the dataset is not available.

    `without_times` is the number of trials whose server's log shows no times of answers.
    """
    trials = _trials(parts)
    told = _with_patch(trials)
    tied = sum(bool(one.trajectory_sha256) for _, one in told)
    logged = sum(shown(part, one) for part, one in told)
    invalid = _invalid(trials)
    found = [
        f"the records of {counted(len(trials), 'trial')}, from the evidence that they name",
        "whether the patch and the test log belong to the conversation, for "
        f"{counted(tied, 'trial')}",
        "whether the answers are in the log of the arm's server, for "
        f"{counted(len(told) - without_times, 'trial')}",
        "whether the trials' times are possible, and fit their workflow runs",
    ]
    if verdicts:
        found += [
            f"{logged} of {counted(len(told), 'verdict')}, from the test logs; an empty patch "
            "needs none",
            "the prompts and the seeds with which the conversations begin",
            "the exits, the classes and the counts of tokens, steps and loops, from the "
            "conversations",
        ]
    if verdicts and (known := sum(invalid.values())):
        found.append(
            f"whether {counted(known, 'instance')} may be dropped as invalid, from test logs"
        )
    return found


def on_word(parts: Sequence[RunDirectory]) -> list[str]:
    """Return what no review can recompute."""
    trials = _trials(parts)
    told = _with_patch(trials)
    unlogged = sum(not shown(part, one) for part, one in told)
    unknown = sum(not known for known in _invalid(trials).values())
    outside = Counter(one.exit for _, one in told if one.exit in FROM_OUTSIDE)
    classes = Counter(one.cls for one in ended(one for _, one in trials))
    found = [
        "that the conversations, the logs and their times are those of a real run: a runner that "
        "forges all of them together is not found",
        "what the commands printed",
        "the GPU, and that the model's file has its digest",
    ]
    if unlogged:
        found.append(
            f"{counted(unlogged, 'verdict')} without a finished test log: a patch that does not "
            "apply, tests that did not end, or a failed grading"
        )
    if unknown:
        found.append(
            f"that {counted(unknown, 'instance')} may be dropped as invalid, because no finished "
            "test log shows it"
        )
    if outside:
        found.append(
            f"that the conversations of {_listed(outside)} ended so: no answer shows it, only that "
            "the time or the length makes it possible"
        )
    if unparsed := sum(_unparsed(part, one) for part, one in told):
        found.append(f"that the server could not parse {counted(unparsed, 'answer')}")
    if classes:
        found.append(f"what infrastructure did to the trials with the class {_listed(classes)}")
    return found


def _trials(parts: Iterable[RunDirectory]) -> Trials:
    return [(part, one) for part in parts for one in part.outcomes()]


def _with_patch(trials: Trials) -> Trials:
    return [(part, one) for part, one in trials if one.has_patch]


def _invalid(trials: Trials) -> dict[str, bool]:
    """Return invalid instance -> true if test logs show that it is invalid."""
    known: dict[str, bool] = {}
    for part, one in trials:
        if one.cls is Class.I0:
            known[one.instance] = known.get(one.instance, True) and shown_invalid(part, one)
    return known


def _unparsed(part: RunDirectory, one: Outcome) -> int:
    """Return how many answers of a conversation are not stored."""
    trajectory = part.trial(one.trial) / "trajectory.jsonl"
    stored = len(answers(trajectory)) if trajectory.exists() else one.steps
    return max(0, one.steps - stored - (one.exit in FROM_OUTSIDE))


def _listed(counts: Counter[Exit] | Counter[Class]) -> str:
    return ", ".join(f"{titled(name)} ({count})" for name, count in counts.items())
