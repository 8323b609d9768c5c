"""Show a record in a terminal."""

from collections import Counter

from kvci.plan import INTERIM
from kvci.record.schema import Imported, Record
from kvci.report.labels import with_class_names


def record_text(record: Record | Imported) -> str:
    """Return one line about a record.

    For an imported record, the line has the owner's figures, and the lines below have kvci's.
    """
    if isinstance(record, Record):
        counts = f"{record.row_id}: {record.resolved} of {record.total} resolved"
        return counts if record.complete else f"{counts}, {len(record.counted)} done; {INTERIM}"
    reported = record.reported
    lines = [
        f"{record.row_id}: reported {reported['Submitted']} submitted, "
        f"{reported['Resolved']} resolved, {reported['Errors']} errors"
    ]
    if record.derived:
        trials = record.derived.trials
        lines.append(
            f"  as kvci reads it: {sum(t.patch_bytes > 0 for t in trials)} patches, "
            f"{sum(t.exception_as_patch for t in trials)} exceptions stored as patches, "
            f"{sum(t.resolved for t in trials)} resolved, "
            f"{sum(not t.valid for t in trials)} that infrastructure may have ended"
        )
        labels = Counter(trial.label for trial in trials)
        lines += [f"  {count:4} {with_class_names(label)}" for label, count in labels.most_common()]
    return "\n".join(lines)
