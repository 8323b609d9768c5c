"""Make the details of a comparison: sections that each have a table."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from kvci.compare.findings import ArmComparison, Comparison, Population, SeedLine
from kvci.report.claims import NOT_ESTIMABLE, repository_cells
from kvci.report.formats import interval, p_value, points
from kvci.report.labels import with_class_names
from kvci.stats.proportion import Interval

Row = tuple[str, ...]
FLIPS_MAX = 40
"""At most this many flips are listed; the JSON has all flips."""


@dataclass(frozen=True)
class Section:
    """A heading, sentences, and a table with at least one row."""

    heading: str
    words: tuple[str, ...]
    header: Row
    rows: tuple[Row, ...]


def sections(found: Comparison) -> list[Section]:
    """Return the sections that have a row."""
    made = (
        _pairs(found.arms),
        _differences(found.arms),
        _repositories(found.arms),
        _seeds(found.seeds),
        _dropped(found.arms),
        _endpoints(found.arms),
        _flips(found.arms),
    )
    return [section for section in made if section.rows]


def _populations(arms: Iterable[ArmComparison]) -> Iterable[tuple[str, Population]]:
    for arm in arms:
        yield f"{arm.kv}, valid", arm.valid
        yield f"{arm.kv}, all", arm.everything


def _pairs(arms: Iterable[ArmComparison]) -> Section:
    words = (
        'Numbers of pairs by the side that succeeded. Rows with "valid" have the valid pairs. Rows '
        'with "all" have all instances, and infrastructure failures count as failures there.'
    )
    header = ("Arm", "Pairs", "Instances", "Both", "Only baseline", "Only arm", "Neither")
    rows = []
    for name, pairs in _populations(arms):
        counts = (pairs.pairs, pairs.instances, pairs.both, pairs.only_baseline, pairs.only_arm)
        rows.append((name, *map(str, counts), str(pairs.neither)))
    return Section("Pairs", (words,), header, tuple(rows))


def _differences(arms: Iterable[ArmComparison]) -> Section:
    words = (
        "Difference: the baseline's rate minus the arm's, in percentage points. Both intervals are "
        "two-sided. The score interval decides the claims; it is Tango's with a continuity "
        "correction of a quarter of a pair. p: McNemar's mid-p value, two-sided, uncorrected."
    )
    header = ("Arm", "Difference", "95 % (score)", "95 % (Newcombe)", "p")
    rows = []
    for name, pairs in _populations(arms):
        if inference := pairs.inference:
            both = (interval(inference.interval_95), interval(inference.newcombe_95))
            p = "" if inference.mid_p is None else p_value(inference.mid_p)
            rows.append((name, points(inference.difference), *both, p))
    return Section("Differences", (words,), header, tuple(rows))


def _repositories(arms: Iterable[ArmComparison]) -> Section:
    words = (
        "The same differences with repositories as clusters, because instances of one repository "
        "may succeed and fail together. With few repositories the interval is still too narrow. "
        f"With one repository, or if no pair differs, the interval is {NOT_ESTIMABLE}. No claim "
        "rests on this interval."
    )
    header = ("Arm", "95 %", "95 % (bootstrap)", "Minimum detectable effect")
    rows = [
        (name, *repository_cells(pairs.inference))
        for name, pairs in _populations(arms)
        if pairs.inference
    ]
    return Section("By repository", (words,), header, tuple(rows))


def _seeds(seeds: Iterable[SeedLine]) -> Section:
    words = (
        "The table counts only instances whose seeds are all valid. ICC: the share of the variance "
        "that lies between instances. pass@k: the chance that at least one of all seeds succeeds. "
        "pass^k: the chance that all seeds succeed."
    )
    header = ("Arm", "Instances", "Seeds", "ICC", "pass@k", "pass^k")
    rows = []
    for line in seeds:
        icc = NOT_ESTIMABLE if line.icc is None else f"{line.icc:.2f}"
        rates = (f"{line.pass_at_k:.1%}", f"{line.pass_hat_k:.1%}")
        rows.append((line.kv, str(line.instances), str(line.seeds), icc, *rates))
    return Section("Seeds", (words,), header, tuple(rows))


def _dropped(arms: Iterable[ArmComparison]) -> Section:
    rows = [
        (arm.kv, with_class_names(why), str(n)) for arm in arms for why, n in arm.dropped.items()
    ]
    words = "Numbers of pairs that are not valid, with the reason."
    return Section("Dropped", (words,), ("Arm", "Why", "Pairs"), tuple(rows))


def _endpoints(arms: Iterable[ArmComparison]) -> Section:
    words = (
        "All endpoints except the primary one are exploratory: no claim rests on them. Differences "
        "of counts are in percentage points. Differences of means are in the unit of the mean."
    )
    header = ("Arm", "Endpoint", "Baseline", "Arm's", "Pairs", "95 % of the difference")
    rows: list[Row] = []
    for arm in arms:
        for line in arm.endpoints:
            name = line.name + ("" if line.exploratory else " (primary)")
            counts = (str(line.baseline), str(line.arm), str(line.pairs))
            known = (*counts, interval(line.interval_95))
            rows.append((arm.kv, name, *(known if line.pairs else ("not recorded", "", "0", ""))))
        for m in arm.measures:
            means = (f"{m.baseline_mean:.1f}", f"{m.arm_mean:.1f}", str(m.pairs))
            rows.append((arm.kv, f"mean {m.name}", *means, _range(m.interval_95)))
    return Section("Endpoints", (words,), header, tuple(rows))


def _range(found: Interval | None) -> str:
    """Return an interval in the measure's own unit; empty if there is no interval."""
    return "" if found is None else f"{found[0]:+.1f} to {found[1]:+.1f}"


def _flips(arms: Iterable[ArmComparison]) -> Section:
    """Return the section of pairs in which only one side succeeded."""
    words, rows = [], []
    for arm in arms:
        flips = [
            (with_class_names(flip.baseline), with_class_names(flip.arm)) for flip in arm.flips
        ]
        if flips:
            kinds = Counter(flips).most_common()
            shown = ", ".join(f"{count} {one} -> {other}" for (one, other), count in kinds)
            words.append(f"{arm.kv}: {shown}.")
        for flip, classes in zip(arm.flips, flips, strict=True):
            rows.append((arm.kv, flip.instance, str(flip.seed), *classes))
    if len(rows) > FLIPS_MAX:
        words.append(
            f"The table has the first {FLIPS_MAX} of {len(rows)} flips; the JSON has all flips."
        )
    header = ("Arm", "Instance", "Seed", "Baseline", "Arm's")
    return Section("Flips", tuple(words), header, tuple(rows[:FLIPS_MAX]))
