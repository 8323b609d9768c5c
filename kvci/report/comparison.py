"""A comparison as a person reads it: Markdown, and the same in a terminal."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from kvci.compare.findings import ArmComparison, Comparison, Inference, SeedLine
from kvci.record.schema import Record
from kvci.report.tables import inert, inert_cells, table
from kvci.stats.proportion import Interval
from kvci.taxonomy import legend

WORD_MAX = 16
NO_BASELINE = "no record of its baseline"
RERUN = "targeted rerun"
FLIPS_MAX = 40
"""So many flipped instances are listed; the JSON has all."""


@dataclass(frozen=True)
class Section:
    heading: str
    words: tuple[str, ...]
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def markdown(found: Comparison) -> str:
    lines: list[str] = []
    for section in sections(found):
        lines += [f"## {section.heading}", "", *(f"{inert(words)}\n" for words in section.words)]
        if section.rows:
            rows = (inert_cells(*cells) for cells in section.rows)
            lines += [*table(section.header, rows), ""]
    return "\n".join(lines)


def text(found: Comparison, console: Console) -> None:
    for section in sections(found):
        console.print(f"[bold]{section.heading}[/bold]", highlight=False)
        for words in section.words:
            console.print(words, highlight=False, markup=False)
        if section.rows:
            table = Table(box=None, pad_edge=False, header_style="bold")
            for column, cells in zip(section.header, zip(*section.rows, strict=True), strict=True):
                table.add_column(column, overflow="fold", min_width=_longest(column, *cells))
            for cells in section.rows:
                table.add_row(*cells)
            console.print(table, markup=False)
        console.print()


def _longest(*cells: str) -> int:
    """Words are not broken, within reason."""
    return min(WORD_MAX, max((len(word) for cell in cells for word in cell.split()), default=1))


def sections(found: Comparison) -> list[Section]:
    design = "paired" if found.paired else "matched"
    words: tuple[str, ...]
    head = [f"Baseline {found.baseline_kv} ({found.baseline}); {design}, {found.primary} first."]
    head += [f"Warning: {warning}." for warning in found.warnings]
    if found.withheld:
        head.append(f"{found.withheld}: {found.done} of {found.planned} trials are here.")
    else:
        head.append(VERDICT_WORDS)
    made = [
        Section("Verdicts", tuple(head), VERDICTS, tuple(_verdict(found, a) for a in found.arms)),
        Section(
            "Pairs",
            ("Who succeeded: over valid pairs, and over all instances with infrastructure failures "
             "counted as failures.",),
            ("Arm", "Pairs", "Instances", "Both", "Only baseline", "Only arm", "Neither"),
            tuple(cells for arm in found.arms for cells in _pairs(arm)),
        ),
    ]  # fmt: skip
    differences = tuple(cells for arm in found.arms for cells in _differences(arm))
    if differences:
        words = (
            "The baseline's rate less the arm's, in percentage points, with two-sided intervals: "
            "the verdicts' own (Tango's score interval with a quarter of a pair more), and "
            "Newcombe's. p is McNemar's mid-p, two-sided, uncorrected.",
        )
        made.append(Section("Differences", words, DIFFERENCES, differences))
        repositories = [cells for arm in found.arms for cells in _repositories(arm)]
        words = (
            "The same differences with repositories as clusters: their instances may succeed and "
            "fail together. Of few repositories it is still too narrow, and of one, or where no "
            "pair differs, it cannot be told; no verdict rests on it.",
        )
        made.append(Section("By repository", words, REPOSITORIES, tuple(repositories)))
    if found.seeds:
        made.append(Section("Seeds", SEED_WORDS, SEEDS, tuple(map(_seed_row, found.seeds))))
    dropped = [(a.kv, why, str(n)) for a in found.arms for why, n in a.dropped.items()]
    if dropped:
        words = ("Pairs that are not valid, and why.", *_legend(why for _, why, _ in dropped))
        made.append(Section("Dropped", words, ("Arm", "Why", "Pairs"), tuple(dropped)))
    made.append(
        Section(
            "Endpoints",
            (
                "All but the primary one are exploratory: nothing is claimed of them. Differences "
                "of counts are in points, of means in their unit.",
            ),
            ("Arm", "Endpoint", "Baseline", "Arm's", "Pairs", "95 % of the difference"),
            tuple(cells for arm in found.arms for cells in _endpoints(arm)),
        )
    )
    flips = [arm for arm in found.arms if arm.flips]
    if flips:
        made.append(_flips(flips))
    return made


VERDICT_WORDS = (
    "Difference: the baseline's rate less the arm's, in percentage points, so that above 0 the arm "
    "resolves fewer. p: one-sided, of harm, after Holm over the KV arms. Smallest visible: the "
    "harm that these pairs would have shown in 80 % of the cases."
)
DIFFERENCES = ("Arm", "Difference", "95 % (score)", "95 % (Newcombe)", "p")
REPOSITORIES = ("Arm", "95 %", "95 % (bootstrap)", "Smallest visible")
NOT_TOLD = "not told"
SEEDS = ("Arm", "Instances", "Seeds", "ICC", "pass@k", "pass^k")
SEED_WORDS = (
    "Over instances of which every seed is valid. ICC: the share of the variance between "
    "instances. pass@k, pass^k: of all seeds of an instance at least one succeeds, each does.",
)
VERDICTS = (
    "Arm", "Verdict", "Difference", "Interval", "p (harm, Holm)", "Smallest visible",
    "Valid pairs",
)  # fmt: skip


def verdict(found: Comparison, arm: ArmComparison) -> str:
    """In words: a claim, what the control arm showed, or why there is neither."""
    if found.withheld:
        return found.withheld
    if not arm.valid.pairs:
        return "no valid pair"
    if arm.control:
        flips = arm.valid.only_baseline + arm.valid.only_arm
        return f"control: {flips} of {arm.valid.pairs} pairs differ"
    told = str(arm.claim)
    if found.margin is not None and "margin" in told:
        told = f"{told} of {100 * found.margin:.1f} points"
    return told


def unpaired(record: Record) -> str:
    """What stands in place of a verdict for what is compared with nothing."""
    if record.rerun:
        return RERUN
    return NO_BASELINE if record.position else "the baseline"


def inferred(found: Comparison, arm: ArmComparison) -> tuple[str, str, str, str]:
    """Difference, interval, p and smallest visible effect; empty where there is no verdict."""
    seen = arm.valid.inference
    if seen is None:
        return ("", "", "", "")
    return (
        points(seen.difference),
        f"{interval(seen.interval)} ({100 * (1 - 2 * found.alpha):.4g}%)",
        "" if arm.p_holm is None else p_value(arm.p_holm),
        visible(seen.minimum_detectable_effect),
    )


def _verdict(found: Comparison, arm: ArmComparison) -> tuple[str, ...]:
    return (arm.kv, verdict(found, arm), *inferred(found, arm), str(arm.valid.pairs))


def visible(smallest: float | None) -> str:
    return "nothing" if smallest is None else f"{100 * smallest:.1f} points"


def _pairs(arm: ArmComparison) -> list[tuple[str, ...]]:
    made = []
    for name, some in (("valid", arm.valid), ("all", arm.everything)):
        counts = (some.pairs, some.instances, some.both, some.only_baseline, some.only_arm)
        made.append((f"{arm.kv}, {name}", *map(str, counts), str(some.neither)))
    return made


def _differences(arm: ArmComparison) -> list[tuple[str, ...]]:
    made: list[tuple[str, ...]] = []
    for name, some in (("valid", arm.valid), ("all", arm.everything)):
        if seen := some.inference:
            both = (interval(seen.interval_95), interval(seen.newcombe_95))
            p = "" if seen.mid_p is None else p_value(seen.mid_p)
            made.append((f"{arm.kv}, {name}", points(seen.difference), *both, p))
    return made


def _endpoints(arm: ArmComparison) -> list[tuple[str, ...]]:
    made: list[tuple[str, ...]] = []
    for line in arm.endpoints:
        name = line.name + ("" if line.exploratory else " (primary)")
        counts = (str(line.baseline), str(line.arm), str(line.pairs))
        shown = (*counts, interval(line.interval_95)) if line.pairs else ("not kept", "", "0", "")
        made.append((arm.kv, name, *shown))
    for m in arm.measures:
        means = (f"{m.baseline_mean:.1f}", f"{m.arm_mean:.1f}", str(m.pairs))
        made.append((arm.kv, f"mean {m.name}", *means, _range(m.interval_95)))
    return made


def _repositories(arm: ArmComparison) -> list[tuple[str, ...]]:
    made: list[tuple[str, ...]] = []
    for name, some in (("valid", arm.valid), ("all", arm.everything)):
        if seen := some.inference:
            made.append((f"{arm.kv}, {name}", *by_repository(seen)))
    return made


def by_repository(seen: Inference) -> tuple[str, str, str]:
    """Both intervals and the smallest visible effect."""
    if seen.repository_95 is None:
        return (NOT_TOLD, NOT_TOLD, NOT_TOLD)
    return (
        interval(seen.repository_95),
        interval(seen.repository_bootstrap_95),
        visible(seen.repository_minimum_detectable_effect),
    )


def _legend(texts: Iterable[str]) -> tuple[str, ...]:
    told = legend(" ".join(texts))
    return (f"Classes: {told}.",) if told else ()


def _seed_row(line: SeedLine) -> tuple[str, ...]:
    shown = "not told" if line.icc is None else f"{line.icc:.2f}"
    rates = (f"{line.pass_at_k:.1%}", f"{line.pass_hat_k:.1%}")
    return (line.kv, str(line.instances), str(line.seeds), shown, *rates)


def _flips(arms: list[ArmComparison]) -> Section:
    words = []
    for arm in arms:
        kinds = Counter(f"{flip.baseline} -> {flip.arm}" for flip in arm.flips)
        shown = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        words.append(f"{arm.kv}: {shown}.")
    rows = [
        (arm.kv, flip.instance, str(flip.seed), flip.baseline, flip.arm)
        for arm in arms
        for flip in arm.flips
    ]
    if len(rows) > FLIPS_MAX:
        words.append(f"The first {FLIPS_MAX} of {len(rows)}; the JSON has all.")
    words += _legend(words)
    header = ("Arm", "Instance", "Seed", "Baseline", "Arm's")
    return Section("Flips", tuple(words), header, tuple(rows[:FLIPS_MAX]))


def p_value(p: float) -> str:
    return f"{p:.3f}" if p >= 0.0005 else "below 0.001"


def points(share: float) -> str:
    """A difference of shares in percentage points."""
    return f"{100 * share:+.2f}"


def interval(found: Interval | None) -> str:
    """In percentage points."""
    return "" if found is None else f"{points(found[0])} to {points(found[1])}"


def _range(found: Interval | None) -> str:
    """In the measure's own unit."""
    return "" if found is None else f"{found[0]:+.1f} to {found[1]:+.1f}"
