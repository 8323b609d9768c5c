"""Two sides -> pairs: trials of one instance and seed."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from kvci.compare.side import Key, Seen, Side
from kvci.stats.clustered import Shares, shares

Pair = tuple[Key, Seen, Seen]
Value = Callable[[Seen], bool | None]


def everything(baseline: Side, arm: Side) -> list[Pair]:
    """What both sides have, however it ended."""
    keys = sorted(baseline.trials.keys() & arm.trials.keys())
    return [(key, baseline.trials[key], arm.trials[key]) for key in keys]


def alone(baseline: Side, arm: Side) -> dict[str, int]:
    """Trials that one side alone has: where -> how many."""
    one, other = baseline.trials.keys(), arm.trials.keys()
    found = {"in the baseline alone": len(one - other), "in the arm alone": len(other - one)}
    return {where: count for where, count in found.items() if count}


def valid(baseline: Side, arm: Side, paired: bool, value: Value) -> list[Pair]:
    """Without those that infrastructure ended on a side, cross a block, or are not known."""
    return [
        (key, one, other)
        for key, one, other in everything(baseline, arm)
        if one.valid
        and other.valid
        and (not paired or one.place == other.place)
        and value(one) is not None
        and value(other) is not None
    ]


def dropped(all_pairs: list[Pair], valid_pairs: list[Pair], paired: bool) -> dict[str, int]:
    """Why pairs are not valid: side and class -> how many."""
    kept = {key for key, _, _ in valid_pairs}
    reasons: Counter[str] = Counter()
    for key, one, other in all_pairs:
        if key in kept:
            continue
        said = [
            f"{name} {seen.label}"
            for name, seen in (("baseline", one), ("arm", other))
            if not seen.valid
        ]
        crosses = paired and one.place != other.place
        why = "the pair crosses a block" if crosses else "the endpoint was not kept"
        reasons[" and ".join(said) or why] += 1
    return dict(reasons)


def by_instance(pairs: Iterable[Pair], value: Value) -> dict[str, Shares]:
    """Who alone succeeded, by instance."""
    seeds: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for (instance, _), one, other in pairs:
        seeds[instance].append((bool(value(one)), bool(value(other))))
    return {
        instance: shares([a for a, _ in some], [b for _, b in some])
        for instance, some in seeds.items()
    }
