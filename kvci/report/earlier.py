"""Rows from before kvci, read from their owner's counts alone."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from kvci.plan import INTERIM
from kvci.record.schema import Imported
from kvci.report.comparison import interval, points
from kvci.report.tables import Cells
from kvci.stats.power import unpaired_minimum_detectable_effect
from kvci.stats.proportion import independent, wilson
from kvci.taxonomy import titled

HEADING = "Earlier rows, as their counts read"
WORDS = (
    "Resolved of all, with the 95 % interval (Wilson). Had the errors resolved: the rate if every "
    "instance whose evaluation failed had been resolved. Fewer than f16/f16: in percentage points, "
    "as if both runs had been of instances of their own (95 %, Newcombe), since counts do not say "
    "which instances were resolved. Smallest visible: the loss that so many instances show in 80 % "
    "of the cases, one-sided at 5 %. Runs of other days and settings are matched at best, so none "
    "of it is a verdict; targeted reruns are compared with nothing."
)
HEADER = (
    "Run ID", "Resolved", "95 %", "Had the errors resolved", "Fewer than f16/f16",
    "Smallest visible", "Reading", "Trials as kvci reads them",
)  # fmt: skip
BASELINE = "f16/f16"


@dataclass(frozen=True)
class Counts:
    total: int
    resolved: int
    errors: int

    @property
    def rate(self) -> float:
        return self.resolved / self.total


def rows(imported: Sequence[Imported]) -> list[Cells]:
    """One a record: the log's, newest first, then the reruns', newest last, as they stand there."""
    by_date = sorted(imported, key=lambda one: (one.reported["Date"], one.row_id))
    log = [one for one in reversed(by_date) if one.table == "log"]
    reruns = [one for one in by_date if one.table == "reruns"]
    return [_row(record, imported) for record in (*log, *reruns)]


def _row(record: Imported, all_of_them: Sequence[Imported]) -> Cells:
    counts = _counts(record)
    if (derived := record.derived) and len(derived.trials) < derived.total:
        done = f"{INTERIM}: {len(derived.trials)} of {derived.total} trials"
        return (record.row_id, *[""] * 5, done, _trials(record))
    if counts is None:
        return (record.row_id, *[""] * 5, "its counts cannot be read", _trials(record))
    low, high = wilson(counts.resolved, counts.total)
    most = (counts.resolved + counts.errors) / counts.total
    return (
        record.row_id,
        f"{counts.resolved} of {counts.total}, {counts.rate:.1%}",
        f"{low:.1%} to {high:.1%}",
        f"{min(1.0, most):.1%}",
        *_beside(counts, record, all_of_them),
        _trials(record),
    )


def _beside(
    counts: Counts, record: Imported, all_of_them: Sequence[Imported]
) -> tuple[str, str, str]:
    """Difference from the baseline's row, smallest visible loss, and what that means."""
    if record.table == "reruns":
        return "", "", "a targeted rerun"
    if record.reported["KV Cache"] == BASELINE:
        return "", "", "a baseline"
    base = _nearest_base(record, all_of_them)
    if base is None:
        return "", "", "without a baseline"
    if (first := _counts(base)) is None:
        return "", "", "without a baseline whose counts can be read"
    low, high = independent(first.resolved, first.total, counts.resolved, counts.total)
    smallest = unpaired_minimum_detectable_effect(min(first.total, counts.total), first.rate)
    of = f"f16/f16 of {base.reported['Date']}"
    return (
        f"{points(first.rate - counts.rate)} ({interval((low, high))})",
        "not even a total loss"
        if smallest is None
        else f"{100 * smallest:.1f} of f16/f16's {100 * first.rate:.1f} points",
        f"not told apart from {of}"
        if low <= 0 <= high
        else f"not the same as {of}, for whatever reason",
    )


def _nearest_base(record: Imported, all_of_them: Sequence[Imported]) -> Imported | None:
    """The baseline's row of the same model and dataset that is nearest in time."""
    alike = ("Model", "Dataset")
    if "not shown" in (record.reported[name] for name in alike):
        return None
    some = [
        one
        for one in all_of_them
        if one.table == "log"
        and one.reported["KV Cache"] == BASELINE
        and all(one.reported[name] == record.reported[name] for name in alike)
    ]
    return min(some, key=lambda one: _days_between(one, record), default=None)


def _days_between(one: Imported, other: Imported) -> float:
    try:
        days = [date.fromisoformat(some.reported["Date"]) for some in (one, other)]
    except ValueError:
        return float("inf")
    return abs((days[0] - days[1]).days)


def _counts(record: Imported) -> Counts | None:
    told = record.reported
    submitted = re.fullmatch(r"\d+/(\d+)", told["Submitted"])
    if not submitted or not told["Resolved"].isdecimal() or not told["Errors"].isdecimal():
        return None
    counts = Counts(int(submitted[1]), int(told["Resolved"]), int(told["Errors"]))
    return counts if 0 < counts.total >= counts.resolved else None


def _trials(record: Imported) -> str:
    if record.derived is None:
        return "counts only"
    found = Counter(trial.label for trial in record.derived.trials)
    return ", ".join(f"{count} {titled(label)}" for label, count in found.most_common())
