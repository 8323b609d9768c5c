"""Check the trials that are not counted: whose failure they are, and how many they may be."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from kvci.record.schema import Record
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import ATTEMPTS, WITHOUT_PATCH, Attempts, Outcome
from kvci.rundir.settle import settle
from kvci.stats.paired import mcnemar_mid_p
from kvci.taxonomy import INFRASTRUCTURE, Class, titled

EXCLUDED_MAX, EXCLUDED_SHARE_MAX = 2, 0.02
"""More excluded trials of an arm than both of these need a person: the number, and the share."""


def excluded(outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    """Yield the trials that infrastructure or kvci ended, without those of invalid instances."""
    yield from (
        one for one in settle([*outcomes]) if one.cls in INFRASTRUCTURE and one.cls is not Class.I0
    )


def account_problems(directory: RunDirectory) -> Iterator[str]:
    """Yield a line for each excluded trial that its account contradicts.

    Raises UserError if an account is not valid.
    """
    for one in excluded(directory.outcomes()):
        account = _account(directory, one)
        if not account.exists():
            continue
        last = Attempts.read(account).attempts[-1]
        without_patch = one.exit in WITHOUT_PATCH  # else the detail may be the conversation's
        if last.ended != _ended(one) or (without_patch and last.detail != one.detail):
            yield (
                f"{one.trial}: it is {titled(one.cls)} ({one.detail[:100]}), but its last attempt "
                f"ended with {last.ended} ({last.detail[:100]})"
            )


def without_account(directories: Iterable[RunDirectory]) -> list[str]:
    """Return a line for each arm with excluded trials that have no account."""
    arms = Counter(
        one.arm
        for directory in directories
        for one in excluded(directory.outcomes())
        if not _account(directory, one).exists()
    )
    return [
        f"{arm}: no file says how infrastructure ended {count} trials, as in evidence of an "
        "earlier kvci"
        for arm, count in arms.items()
    ]


def too_many(arms: Sequence[Record]) -> list[str]:
    """Return a line for each arm of which more trials are excluded than may be.

    These are more than both limits, or more than in the baseline beyond chance.
    """
    found = []
    dropped = {record.arm: _dropped(record) for record in arms}
    baseline = next((dropped[record.arm] for record in arms if not record.position), set())
    for record in arms:
        own = dropped[record.arm]
        allowed = max(EXCLUDED_MAX, int(EXCLUDED_SHARE_MAX * record.total))
        excess = mcnemar_mid_p(len(own - baseline), len(baseline - own)) < record.spec["alpha"]
        if len(own) > allowed or excess:
            classes = Counter(t.cls for t in record.counted if t.cls in INFRASTRUCTURE)
            shown = ", ".join(f"{count} {titled(cls)}" for cls, count in classes.items())
            found.append(
                f"{record.row_id}: {len(own)} of {record.total} trials are excluded "
                f"({shown or 'more in the baseline'}); kvci accepts at most {allowed} without a "
                "person, and no difference between the arms beyond chance"
            )
    return found


def _dropped(record: Record) -> set[tuple[str, int]]:
    return {(one.instance, one.seed) for one in record.counted if one.cls in INFRASTRUCTURE}


def _account(directory: RunDirectory, one: Outcome) -> Path:
    folder = directory.trial(one.trial)
    return (folder if one.exit in WITHOUT_PATCH else folder / "grade") / ATTEMPTS


def _ended(one: Outcome) -> str:
    return one.exit if one.exit in WITHOUT_PATCH else one.verdict
