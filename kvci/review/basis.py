"""Say what a review recomputes from a run's files, and what rests on the runner's word alone."""

from collections.abc import Sequence

from kvci.review.excluded import excluded
from kvci.review.recompute import TESTED
from kvci.rundir.documents import Outcome
from kvci.taxonomy import Class
from kvci.units import counted


def recomputed(outcomes: Sequence[Outcome], verdicts: bool, without_times: int) -> list[str]:
    """Return what was recomputed. `verdicts` is false if the dataset is not available.

    `without_times` is the number of trials whose server's log shows no times of answers.
    """
    told = [one for one in outcomes if one.has_patch]
    tied = sum(bool(one.trajectory_sha256) for one in told)
    logged = sum(one.verdict in TESTED for one in told)
    invalid = len({one.instance for one in outcomes if one.cls is Class.I0})
    found = [
        f"the records of {counted(len(outcomes), 'trial')}, from the evidence that they name",
        "whether the patch and the test log belong to the conversation, for "
        f"{counted(tied, 'trial')}",
        "whether the answers are in the log of the arm's server, for "
        f"{counted(len(told) - without_times, 'trial')}",
        "whether the trials' times are possible, and fit their workflow runs",
    ]
    if verdicts:
        found += [
            f"{logged} of {counted(len(told), 'verdict')}, from the test logs",
            "the prompts and the seeds with which the conversations begin",
            "the classes and the counts of tokens, steps and loops, from the conversations",
        ]
    if verdicts and invalid:
        found.append(f"whether {counted(invalid, 'instance')} are invalid, from the test logs")
    return found


def on_word(outcomes: Sequence[Outcome]) -> list[str]:
    """Return what no review can recompute."""
    unlogged = sum(one.has_patch and one.verdict not in TESTED for one in outcomes)
    dropped = len([*excluded(outcomes)])
    found = [
        "that the conversations, the logs and their times are those of a real run: a runner that "
        "forges all of them together is not found",
        "what the commands printed",
        "the GPU, and that the model's file has its digest",
    ]
    if unlogged:
        found.append(
            f"{counted(unlogged, 'verdict')} without a finished test log: an empty patch, a patch "
            "that does not apply, or tests that did not end"
        )
    if dropped:
        found.append(f"what infrastructure did to {counted(dropped, 'excluded trial')}")
    return found
