"""Check the trials that infrastructure ended: what ended them, and how many they may be.

They are not counted, or count as failures because only their arm's server fails (class A12).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from kvci.record.schema import Record
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import ATTEMPTS, WITHOUT_PATCH, Attempts, FailedAttempt, Outcome
from kvci.rundir.settle import settle
from kvci.stats.paired import mcnemar_mid_p
from kvci.taxonomy import ATTEMPTS_MAX, INFRASTRUCTURE, Class, Exit, Verdict, titled

UNCHECKED_MAX, UNCHECKED_SHARE_MAX = 2, 0.02
"""More unchecked trials of an arm than both of these need a person: the number, and the share."""
ALLOWED = (
    f"without a person, kvci accepts at most {UNCHECKED_MAX}, or {UNCHECKED_SHARE_MAX:.0%} if that "
    "is more, and no difference from the baseline beyond chance"
)
ENDED = INFRASTRUCTURE | {Class.A12}
"""The classes that say more about the machine than about the model."""
Keys = set[tuple[str, int]]
"""Trials of an arm: instance and seed."""


def ended(outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    """Yield the trials that infrastructure or kvci ended, without those of invalid instances."""
    yield from (one for one in settle([*outcomes]) if one.cls in ENDED - {Class.I0})


def exceeds(own: Keys, baseline: Keys, total: int, alpha: float) -> bool:
    """True if a person must accept so many trials of an arm that rest on the runner's word.

    They are more than both limits, or differ from those of the baseline beyond chance.
    """
    many = len(own) > max(UNCHECKED_MAX, int(UNCHECKED_SHARE_MAX * total))
    return many or mcnemar_mid_p(len(own - baseline), len(baseline - own)) < alpha


def account_problems(directory: RunDirectory) -> Iterator[str]:
    """Yield a line for each trial that infrastructure ended, and that its account contradicts.

    Raises UserError if an account is not valid.
    """
    for one in ended(directory.outcomes()):
        account = _account(directory, one)
        if not account.exists():
            continue
        attempts = Attempts.read(account).attempts
        if problem := _number_problem(one, attempts):
            yield f"{one.trial}: {problem}"
        last = attempts[-1]
        without_patch = one.exit in WITHOUT_PATCH  # else the detail may be the conversation's
        if last.ended != _end(one) or (without_patch and last.detail != one.detail):
            yield (
                f"{one.trial}: it is {titled(one.cls)} ({one.detail[:100]}), but its last attempt "
                f"ended with {last.ended} ({last.detail[:100]})"
            )


def without_account(directories: Iterable[RunDirectory]) -> list[str]:
    """Return a line for each arm with trials that infrastructure ended and that have no account."""
    arms = Counter(
        one.arm
        for directory in directories
        for one in ended(directory.outcomes())
        if not _account(directory, one).exists()
    )
    return [
        f"{arm}: no file says how infrastructure ended {count} trials, as in evidence of an "
        "earlier kvci"
        for arm, count in arms.items()
    ]


def too_many(arms: Sequence[Record]) -> list[str]:
    """Return a line for each arm with too many trials that infrastructure ended."""
    found = []
    of_arms = {record.arm: _keys(record) for record in arms}
    baseline = next((of_arms[record.arm] for record in arms if not record.position), set())
    for record in arms:
        own = of_arms[record.arm]
        if exceeds(own, baseline, record.total, record.spec["alpha"]):
            classes = Counter(t.cls for t in record.counted if t.cls in ENDED)
            shown = ", ".join(f"{count} {titled(cls)}" for cls, count in classes.items())
            found.append(
                f"{record.row_id}: {len(own)} of {record.total} trials are excluded or failed by "
                f"their server ({shown or 'more in the baseline'}); {ALLOWED}"
            )
    return found


def _keys(record: Record) -> Keys:
    return {(one.instance, one.seed) for one in record.counted if one.cls in ENDED}


def _number_problem(one: Outcome, attempts: Sequence[FailedAttempt]) -> str:
    """Return that an account has fewer attempts than its outcome counts; empty if it has not.

    It may have more: an attempt without an image does not count. A grading has its own attempts.
    """
    if one.exit in WITHOUT_PATCH:
        counted = {"attempts": one.attempts, "server failures": one.server_failures}
        failures = sum(each.ended is Exit.SERVER_FAILED for each in attempts)
        listed = {"attempts": len(attempts), "server failures": failures}
    else:
        counted = {"gradings": ATTEMPTS_MAX if one.verdict is Verdict.GRADING_FAILED else 1}
        listed = {"gradings": len(attempts)}
    for name, number in counted.items():
        if listed[name] < number:
            return f"it counts {number} {name}, but its account has {listed[name]}"
    return ""


def _account(directory: RunDirectory, one: Outcome) -> Path:
    folder = directory.trial(one.trial)
    return (folder if one.exit in WITHOUT_PATCH else folder / "grade") / ATTEMPTS


def _end(one: Outcome) -> str:
    return one.exit if one.exit in WITHOUT_PATCH else one.verdict
