"""Make pairs from two sides. A pair is two trials of the same instance and seed."""

from collections import Counter, defaultdict
from collections.abc import Iterable

from kvci.compare.endpoint import Endpoint
from kvci.compare.side import ComparedTrial, Key, Side
from kvci.stats.clustered import Shares, shares

Pair = tuple[Key, ComparedTrial, ComparedTrial]


def all_pairs(baseline: Side, arm: Side) -> list[Pair]:
    """Return all pairs, whatever the outcomes of their trials."""
    keys = sorted(baseline.trials.keys() & arm.trials.keys())
    return [(key, baseline.trials[key], arm.trials[key]) for key in keys]


def unpaired_trials(baseline: Side, arm: Side) -> dict[str, int]:
    """Return side -> number of trials that only this side has."""
    one, other = baseline.trials.keys(), arm.trials.keys()
    counts = {"only in the baseline": len(one - other), "only in the arm": len(other - one)}
    return {side: count for side, count in counts.items() if count}


def valid_pairs(baseline: Side, arm: Side, paired: bool, value: Endpoint) -> list[Pair]:
    """Return the valid pairs.

    A pair is valid if both values are known, and infrastructure ended neither trial. If `paired` is
    true, both trials must also have the same block.
    """
    return [
        (key, one, other)
        for key, one, other in all_pairs(baseline, arm)
        if one.valid
        and other.valid
        and (not paired or one.block == other.block)
        and value(one) is not None
        and value(other) is not None
    ]


def dropped_pairs(every: list[Pair], valid: list[Pair], paired: bool) -> dict[str, int]:
    """Return reason -> number of pairs that are not valid. A reason names side and class."""
    kept = {key for key, _, _ in valid}
    reasons: Counter[str] = Counter()
    for key, one, other in every:
        if key in kept:
            continue
        invalid = [
            f"{name} {trial.label}"
            for name, trial in (("baseline", one), ("arm", other))
            if not trial.valid
        ]
        crosses = paired and one.block != other.block
        why = "the pair crosses a block" if crosses else "the endpoint was not recorded"
        reasons[" and ".join(invalid) or why] += 1
    return dict(reasons)


def by_instance(pairs: Iterable[Pair], value: Endpoint) -> dict[str, Shares]:
    """Return instance -> its shares: how often only the one or only the other side succeeded."""
    outcomes: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for (instance, _), one, other in pairs:
        outcomes[instance].append((bool(value(one)), bool(value(other))))
    return {
        instance: shares([one for one, _ in seeds], [other for _, other in seeds])
        for instance, seeds in outcomes.items()
    }
