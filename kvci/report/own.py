"""kvci's own tables of BENCHMARKS.md, below the owner's; each row is made of records alone."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kvci.compare.compare import compare_run
from kvci.record.schema import Record, by_run
from kvci.report.comparison import by_repository, inferred, unpaired, verdict
from kvci.report.tables import Cells
from kvci.taxonomy import NAMES, Class

NOT_SHOWN = "not shown"
DEFINITIONS = (
    "Rows that kvci made count trials over instances times seeds. Submitted: trials with a patch "
    "that is not empty. Resolved: trials whose patch lets the failing tests pass and breaks none. "
    "Rate: resolved over all planned trials, infrastructure failures among them. Errors: trials "
    "that infrastructure ended, or whose evaluation it did. Each row is computed from its record "
    "in `ci/results`; until all planned trials are done it says so instead of a rate."
)


@dataclass(frozen=True)
class Own:
    """The words are written once, with the table, and are the owner's from then on."""

    heading: str
    words: str
    header: Cells
    rows: Callable[[Sequence[Record]], list[Cells]]


def comparison_rows(records: Sequence[Record]) -> list[Cells]:
    """A row for each arm that has a baseline."""
    return [cells for arms in by_run(records).values() for cells in _compared(arms)]


def _compared(records: list[Record]) -> list[Cells]:
    if len(records) < 2:
        return []
    found = compare_run(records)
    if not found:
        return [(record.row_id, *[""] * 12, unpaired(record)) for record in records]
    warnings = "; ".join(found.warnings)
    return [
        (
            arm.name,
            found.baseline_kv,
            found.primary,
            str(arm.valid.both),
            str(arm.valid.only_baseline),
            str(arm.valid.only_arm),
            str(arm.valid.neither),
            str(sum(arm.dropped.values())),
            *inferred(found, arm),
            by_repository(seen)[0] if (seen := arm.valid.inference) else "",
            " ".join(filter(None, (warnings and f"Warning: {warnings}.", verdict(found, arm)))),
        )
        for arm in found.arms
    ]


def classes_row(record: Record) -> Cells:
    count = Counter(trial.cls for trial in record.counted)
    texts = (f"{count[cls]} {NAMES[cls]} ({cls})" for cls in Class if count[cls])
    done = f"{len(record.counted)}/{record.total}"
    aside = len(record.trials) - len(record.counted)
    return (record.row_id, done, ", ".join(texts), str(aside))


def shown(record: Record, name: str, form: str = "{}") -> str:
    """A value of the effective configuration; where several server starts differ, each."""
    values = [getattr(effective, name) for effective in record.effective]
    texts = [NOT_SHOWN if value is None else form.format(value) for value in values]
    return ", ".join(dict.fromkeys(texts)) or NOT_SHOWN


def effective_row(record: Record) -> Cells:
    names = (
        "kv_type", "context_per_slot", "slots", "flash_attention", "kernel_path", "rotation",
    )  # fmt: skip
    mib = shown(record, "kv_mib", "{:.1f}")
    rest = (shown(record, "kv_device"), shown(record, "build"))
    return (record.row_id, *(shown(record, name) for name in names), mib, *rest)


def cost_row(record: Record) -> Cells:
    """Over all trials of the arm: tokens by the server's own seconds for them."""

    def rate(tokens: int, seconds: float) -> str:
        return f"{tokens / seconds:.1f}" if seconds else NOT_SHOWN

    some = record.counted
    mib = [shown(record, name, "{:.1f}") for name in ("weights_mib", "kv_mib", "compute_mib")]
    return (
        record.row_id,
        rate(sum(t.prefill_tokens for t in some), sum(t.prefill_s for t in some)),
        rate(sum(t.answer_tokens for t in some), sum(t.decode_s for t in some)),
        str(max((t.depth_tokens for t in some), default=0)),
        f"{sum(t.solve_s for t in some):.0f}",
        *mib,
        record.gpu or "CPU",
    )


def _each(make: Callable[[Record], Cells]) -> Callable[[Sequence[Record]], list[Cells]]:
    return lambda records: [make(record) for record in records]


OWN = (
    Own(
        "Paired comparison",
        "Each arm against the baseline of its run, over pairs of trials that are valid in both. "
        "Difference: the baseline's rate less the arm's, in percentage points, with its interval. "
        "Smallest visible: the harm that these pairs would have shown in 80 % of the cases. By "
        "repository: the 95 % interval with repositories as clusters. What a "
        "verdict means, and how often it is wrong, stands in `kvci/RULES.md`; `kvci compare` shows "
        "all of it.",
        (
            "Run ID", "Baseline", "Endpoint", "Both", "Only baseline", "Only arm", "Neither",
            "Dropped", "Difference", "Interval", "p (harm, Holm)", "Smallest visible",
            "By repository", "Verdict",
        ),
        comparison_rows,
    ),
    Own(
        "How the trials ended",
        DEFINITIONS + " Superseded trials are kept in the record and counted nowhere.",
        ("Run ID", "Trials", "Classes", "Superseded"),
        _each(classes_row),
    ),
    Own(
        "Effective configuration",
        "What the server's own log says that it did.",
        (
            "Run ID", "KV type", "Context per slot, tokens", "Slots", "Flash attention",
            "Kernel path", "Rotation", "KV MiB", "KV device", "Build",
        ),
        _each(effective_row),
    ),
    Own(
        "Speed and memory",
        "Tokens over the server's own seconds for them; all slots' seconds are added up. Memory is "
        "what the server's log says that it reserved, on the GPU where there is one.",
        (
            "Run ID", "Prefill tokens/s", "Decode tokens/s", "Deepest context, tokens",
            "Solving, s", "Weights MiB", "KV MiB", "Compute MiB", "GPU",
        ),
        _each(cost_row),
    ),
)  # fmt: skip
