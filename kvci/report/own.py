"""Make kvci's own tables in BENCHMARKS.md, below the owner's. Each row is derived from records."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kvci.compare.compare import compare_run
from kvci.compare.side import NOT_SHOWN
from kvci.record.schema import Record, by_run
from kvci.report.claims import claim_text, inference_cells, repository_cells, without_claim
from kvci.report.tables import Cells
from kvci.taxonomy import NAMES, Class


@dataclass(frozen=True)
class OwnTable:
    """A table of kvci. kvci writes `words` when it adds the table; the owner may change them."""

    heading: str
    words: str
    header: Cells
    rows: Callable[[Sequence[Record]], list[Cells]]


def comparison_rows(records: Sequence[Record]) -> list[Cells]:
    """Return the rows of all runs that have at least two arms."""
    return [cells for arms in by_run(records).values() for cells in _run_rows(arms)]


def _run_rows(records: list[Record]) -> list[Cells]:
    if len(records) < 2:
        return []
    found = compare_run(records)
    if not found:
        return [(record.row_id, *[""] * 12, without_claim(record)) for record in records]
    warnings = f"Warning: {'; '.join(found.warnings)}. " if found.warnings else ""
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
            *inference_cells(found, arm),
            repository_cells(inference)[0] if (inference := arm.valid.inference) else "",
            warnings + claim_text(found, arm),
        )
        for arm in found.arms
    ]


def classes_row(record: Record) -> Cells:
    count = Counter(trial.cls for trial in record.counted)
    texts = (f"{count[cls]} {NAMES[cls]} ({cls})" for cls in Class if count[cls])
    done = f"{len(record.counted)}/{record.total}"
    superseded = len(record.trials) - len(record.counted)
    return (record.row_id, done, ", ".join(texts), str(superseded))


def shown(record: Record, name: str, form: str = "{}") -> str:
    """Return a value of the effective configuration, or all values if server starts differ."""
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
    """Return the arm's speed and memory.

    The speed is tokens per second of the server's own time, over all trials of the arm.
    """

    def rate(tokens: int, seconds: float) -> str:
        return f"{tokens / seconds:.1f}" if seconds else NOT_SHOWN

    trials = record.counted
    mib = [shown(record, name, "{:.1f}") for name in ("weights_mib", "kv_mib", "compute_mib")]
    return (
        record.row_id,
        rate(sum(t.prefill_tokens for t in trials), sum(t.prefill_s for t in trials)),
        rate(sum(t.answer_tokens for t in trials), sum(t.decode_s for t in trials)),
        str(max((t.depth_tokens for t in trials), default=0)),
        f"{sum(t.solve_s for t in trials):.0f}",
        *mib,
        record.gpu or "CPU",
    )


def _each(make: Callable[[Record], Cells]) -> Callable[[Sequence[Record]], list[Cells]]:
    return lambda records: [make(record) for record in records]


COMPARISON = OwnTable(
    "Paired comparison",
    "Each row compares an arm with the baseline of its run, over pairs of trials that are valid in "
    "both. Difference: the baseline's rate less the arm's, in percentage points, with its "
    "interval. Minimum detectable effect: the harm that these pairs would have shown in 80 % of "
    "cases. By repository: the 95 % interval with repositories as clusters. `kvci/RULES.md` says "
    "what a claim means and how often it is wrong; `kvci compare --details` shows all figures.",
    (
        "Run ID", "Baseline", "Endpoint", "Both", "Only baseline", "Only arm", "Neither",
        "Dropped", "Difference", "Interval", "p (harm, Holm)", "Minimum detectable effect",
        "By repository", "Claim",
    ),
    comparison_rows,
)  # fmt: skip
CLASSES = OwnTable(
    "How the trials ended",
    "Rows that kvci writes count trials, which are instances times seeds. Submitted: trials with a "
    "patch that is not empty. Resolved: trials whose patch makes the failing tests pass and breaks "
    "no passing test. Rate: resolved trials over all planned trials, infrastructure failures "
    "included. Errors: trials that infrastructure ended, also during grading. Each row is computed "
    "from its record in `ci/results`; until all planned trials are done, it has no rate. "
    "Superseded trials stay in the record, and no table counts them.",
    ("Run ID", "Trials", "Classes", "Superseded"),
    _each(classes_row),
)
CONFIGURATION = OwnTable(
    "Effective configuration",
    "What the server's own log reports about its configuration.",
    (
        "Run ID", "KV type", "Context per slot, tokens", "Slots", "Flash attention",
        "Kernel path", "Rotation", "KV MiB", "KV device", "Build",
    ),
    _each(effective_row),
)  # fmt: skip
COST = OwnTable(
    "Speed and memory",
    "Tokens per second: tokens over the server's own seconds for them, summed over all slots. "
    "Memory: what the server's log reports as reserved, on the GPU if it uses one.",
    (
        "Run ID", "Prefill tokens/s", "Decode tokens/s", "Deepest context, tokens",
        "Solving, s", "Weights MiB", "KV MiB", "Compute MiB", "GPU",
    ),
    _each(cost_row),
)  # fmt: skip
OWN_TABLES = (COMPARISON, CLASSES, CONFIGURATION, COST)
