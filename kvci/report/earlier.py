"""Make the table of rows from before kvci. It states only what the counts of these rows show."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from kvci.compare.side import NOT_SHOWN
from kvci.plan import INTERIM
from kvci.record.schema import Imported
from kvci.report.formats import interval, points
from kvci.report.tables import Cells
from kvci.stats.power import unpaired_minimum_detectable_effect
from kvci.stats.proportion import independent, wilson
from kvci.taxonomy import titled

HEADING = "Earlier rows, as their counts read"
WORDS = (
    "Resolved: the count out of all instances, with the 95 % interval (Wilson). Had the errors "
    "resolved: the rate if every instance whose evaluation failed had been resolved. Fewer than "
    "f16/f16: in percentage points, computed as for two runs with different instances (95 %, "
    "Newcombe), because counts do not say which instances were resolved. Minimum detectable "
    "effect: the loss that this many instances show in 80 % of cases, one-sided at 5 %. These runs "
    "have different days and settings and are matched at best, so no claim rests on them. Targeted "
    "reruns are not compared."
)
HEADER = (
    "Run ID", "Resolved", "95 %", "Had the errors resolved", "Fewer than f16/f16",
    "Minimum detectable effect", "Reading", "Trials as kvci reads them",
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
    """Return one row per record, in the order of the owner's tables.

    First comes the log, with its newest row first. Then come the reruns, with their newest row
    last.
    """
    by_date = sorted(imported, key=lambda one: (one.reported["Date"], one.row_id))
    log = [one for one in reversed(by_date) if one.table == "log"]
    reruns = [one for one in by_date if one.table == "reruns"]
    return [_row(record, imported) for record in (*log, *reruns)]


def _row(record: Imported, imported: Sequence[Imported]) -> Cells:
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
        *_against_baseline(counts, record, imported),
        _trials(record),
    )


def _against_baseline(
    counts: Counts, record: Imported, imported: Sequence[Imported]
) -> tuple[str, str, str]:
    """Return the difference from the baseline, the minimum detectable effect, and their meaning."""
    if record.table == "reruns":
        return "", "", "a targeted rerun"
    if record.reported["KV Cache"] == BASELINE:
        return "", "", "a baseline"
    base = _nearest_baseline(record, imported)
    if base is None:
        return "", "", "no baseline"
    if (first := _counts(base)) is None:
        return "", "", "the baseline's counts cannot be read"
    low, high = independent(first.resolved, first.total, counts.resolved, counts.total)
    effect = unpaired_minimum_detectable_effect(min(first.total, counts.total), first.rate)
    name = f"f16/f16 of {base.reported['Date']}"
    return (
        f"{points(first.rate - counts.rate)} ({interval((low, high))})",
        "not even a total loss"
        if effect is None
        else f"{100 * effect:.1f} of f16/f16's {100 * first.rate:.1f} points",
        f"no difference from {name} shown"
        if low <= 0 <= high
        else f"differs from {name}; the reason is unknown",
    )


def _nearest_baseline(record: Imported, imported: Sequence[Imported]) -> Imported | None:
    """Return the baseline's row with the same model and dataset whose date is nearest, or None."""
    shared = ("Model", "Dataset")
    if NOT_SHOWN in (record.reported[name] for name in shared):
        return None
    baselines = [
        one
        for one in imported
        if one.table == "log"
        and one.reported["KV Cache"] == BASELINE
        and all(one.reported[name] == record.reported[name] for name in shared)
    ]
    return min(baselines, key=lambda one: _days_between(one, record), default=None)


def _days_between(one: Imported, other: Imported) -> float:
    try:
        days = [date.fromisoformat(each.reported["Date"]) for each in (one, other)]
    except ValueError:
        return float("inf")
    return abs((days[0] - days[1]).days)


def _counts(record: Imported) -> Counts | None:
    """Return the counts of a row; None if they are not numbers or contradict each other."""
    reported = record.reported
    submitted = re.fullmatch(r"\d+/(\d+)", reported["Submitted"])
    if not submitted or not reported["Resolved"].isdecimal() or not reported["Errors"].isdecimal():
        return None
    counts = Counts(int(submitted[1]), int(reported["Resolved"]), int(reported["Errors"]))
    return counts if 0 < counts.total >= counts.resolved else None


def _trials(record: Imported) -> str:
    if record.derived is None:
        return "counts only"
    found = Counter(trial.label for trial in record.derived.trials)
    return ", ".join(f"{count} {titled(label)}" for label, count in found.most_common())
