"""A comparison as a person reads it: Markdown, and the same in a terminal."""

from collections import Counter
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from kvci.compare.comparison import ArmComparison, Comparison, Inference
from kvci.record.benchmarks import INTERIM
from kvci.record.tables import row
from kvci.stats.proportion import Interval

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
        lines += [f"## {section.heading}", "", *(f"{words}\n" for words in section.words)]
        if section.rows:
            lines += [row(section.header), "|---" * len(section.header) + "|"]
            lines += [*map(row, section.rows), ""]
    return "\n".join(lines)


def text(found: Comparison, console: Console) -> None:
    for section in sections(found):
        console.print(f"[bold]{section.heading}[/bold]", highlight=False)
        for words in section.words:
            console.print(words, highlight=False, markup=False)
        if section.rows:
            table = Table(box=None, pad_edge=False, header_style="bold")
            for column in section.header:
                table.add_column(column, overflow="fold")
            for cells in section.rows:
                table.add_row(*cells)
            console.print(table, markup=False)
        console.print()


def sections(found: Comparison) -> list[Section]:
    design = "paired" if found.paired else "matched"
    head = [f"Baseline {found.baseline_kv} ({found.baseline}); {design}, {found.primary} first."]
    head += [f"Warning: {warning}." for warning in found.warnings]
    if not found.complete:
        head.append(f"{INTERIM}: {found.done} of {found.planned} trials are done.")
    made = [
        Section("Verdicts", tuple(head), VERDICTS, tuple(_verdict(found, a) for a in found.arms)),
        Section(
            "Pairs",
            ("Who succeeded: over valid pairs, and over all instances with infrastructure failures "
             "counted as failures.",),
            ("Arm", "Pairs", "Instances", "Both", "Only baseline", "Only arm", "Neither",
             "Difference", "95 % (Newcombe)", "95 % by repository", "mid-p, two-sided"),
            tuple(cells for arm in found.arms for cells in _pairs(arm)),
        ),
    ]  # fmt: skip
    dropped = [(a.kv, why, str(n)) for a in found.arms for why, n in a.dropped.items()]
    if dropped:
        words = ("Pairs that are not valid, and why.",)
        made.append(Section("Dropped", words, ("Arm", "Why", "Pairs"), tuple(dropped)))
    made.append(
        Section(
            "Endpoints",
            ("All but the primary one are exploratory: nothing is claimed of them.",),
            ("Arm", "Endpoint", "Baseline", "Arm's", "Pairs", "95 % of the difference"),
            tuple(
                (
                    arm.kv, line.name + ("" if line.exploratory else " (primary)"),
                    str(line.baseline), str(line.arm), str(line.pairs), _interval(line.interval_95),
                )
                for arm in found.arms
                for line in arm.endpoints
            )
            + tuple(
                (arm.kv, f"mean {m.name}", f"{m.baseline_mean:.1f}", f"{m.arm_mean:.1f}", "", "")
                for arm in found.arms
                for m in arm.measures
            ),
        )
    )  # fmt: skip
    flips = [arm for arm in found.arms if arm.flips]
    if flips:
        made.append(_flips(flips))
    return made


VERDICTS = (
    "Arm", "Verdict", "Difference", "Interval", "p (harm, Holm)", "Smallest visible",
    "Valid pairs",
)  # fmt: skip


def _verdict(found: Comparison, arm: ArmComparison) -> tuple[str, ...]:
    inferred = arm.valid.inference
    if not found.complete or inferred is None:
        verdict = INTERIM if not found.complete else "no valid pair"
        return (arm.kv, verdict, "", "", "", "", str(arm.valid.pairs))
    level = f"{1 - 2 * found.alpha:.0%}"
    if arm.control:
        flips = arm.valid.only_baseline + arm.valid.only_arm
        verdict = f"control: {flips} of {arm.valid.pairs} pairs differ"
    else:
        verdict = str(arm.claim)
        if found.margin is not None:
            verdict += f" (margin {100 * found.margin:.1f} points)"
    return (
        arm.kv,
        verdict,
        _points(inferred.difference),
        f"{_interval(inferred.interval)} ({level})",
        "" if arm.p_holm is None else f"{arm.p_holm:.3f}",
        _visible(inferred),
        str(arm.valid.pairs),
    )


def _visible(inferred: Inference) -> str:
    seen = inferred.smallest_visible
    return "nothing" if seen is None else f"{100 * seen:.1f} points"


def _pairs(arm: ArmComparison) -> list[tuple[str, ...]]:
    made = []
    for name, some in (("valid", arm.valid), ("all", arm.everything)):
        counts = (some.pairs, some.instances, some.both, some.only_baseline, some.only_arm)
        found = some.inference
        told = (
            ("", "", "", "")
            if found is None
            else (
                _points(found.difference),
                _interval(found.newcombe_95),
                _interval(found.repository_95),
                "" if found.mid_p is None else f"{found.mid_p:.3f}",
            )
        )
        made.append((f"{arm.kv}, {name}", *map(str, counts), str(some.neither), *told))
    return made


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
    header = ("Arm", "Instance", "Seed", "Baseline", "Arm's")
    return Section("Flips", tuple(words), header, tuple(rows[:FLIPS_MAX]))


def _points(share: float) -> str:
    return f"{100 * share:+.2f}"


def _interval(found: Interval | None) -> str:
    return "" if found is None else f"{_points(found[0])} to {_points(found[1])}"
