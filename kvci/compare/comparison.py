"""Sides -> pairs, tables and decisions. What may be claimed stands in RULES.md."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from kvci.compare.endpoint import ENDPOINTS, MEASURES
from kvci.compare.side import Key, Seen, Side
from kvci.files import Document
from kvci.stats.clustered import (
    Shares,
    agreement,
    cluster_interval,
    score_interval,
    shares,
    sign_flip,
)
from kvci.stats.decide import Claim, decide
from kvci.stats.paired import mcnemar_mid_p, newcombe
from kvci.stats.power import smallest_visible
from kvci.stats.proportion import Interval

MATCHED = "the trials are matched, not paired: other runs, hosts or days stand between them"


class Inference(Document):
    """What is inferred of a difference, baseline less arm; intervals are two-sided."""

    difference: float
    interval: Interval
    """Of confidence 1 - 2 alpha, by the score: what the claim of no harm looks at."""
    interval_95: Interval
    newcombe_95: Interval | None
    """With one seed only, as are `mid_p`."""
    repository_95: Interval | None
    """With repositories as clusters; None with one of them."""
    p_harm: float
    """One-sided, uncorrected."""
    mid_p: float | None
    """McNemar's, two-sided."""
    smallest_visible: float | None
    """The harm that these pairs would have shown in 80 % of the cases; None if none."""


class Population(Document):
    """Pairs by who succeeded."""

    instances: int
    both: int
    only_baseline: int
    only_arm: int
    neither: int
    inference: Inference | None
    """None until all planned trials are done."""

    @property
    def pairs(self) -> int:
        return self.both + self.only_baseline + self.only_arm + self.neither


class Flip(Document):
    """A pair in which one side alone succeeded, by the classes of both."""

    instance: str
    seed: int
    baseline: str
    arm: str


class EndpointLine(Document):
    name: str
    exploratory: bool
    baseline: int
    arm: int
    pairs: int
    interval_95: Interval | None


class MeasureLine(Document):
    name: str
    baseline_mean: float
    arm_mean: float


class ArmComparison(Document):
    name: str
    kv: str
    control: bool
    """The baseline again under a harmless change: the noise floor."""
    identical: bool
    """Not one answer differs from the baseline's."""
    claim: str | None
    p_holm: float | None
    valid: Population
    everything: Population
    """All instances; infrastructure counts as failure."""
    dropped: dict[str, int]
    """Why pairs are not valid: side and class -> how many."""
    flips: tuple[Flip, ...]
    endpoints: tuple[EndpointLine, ...]
    measures: tuple[MeasureLine, ...]


class Comparison(Document):
    baseline: str
    baseline_kv: str
    paired: bool
    complete: bool
    done: int
    planned: int
    primary: str
    alpha: float
    margin: float | None
    warnings: tuple[str, ...]
    arms: tuple[ArmComparison, ...]


Pair = tuple[Key, Seen, Seen]
Value = Callable[[Seen], bool | None]


def compare(sides: Sequence[Side]) -> Comparison:
    """The first side is the baseline. Raises ValueError with fewer than two sides."""
    if len(sides) < 2:
        raise ValueError("a comparison needs a baseline and an arm")
    baseline, *arms = sides
    paired = bool(baseline.run) and all(arm.run == baseline.run for arm in arms)
    complete = all(side.complete for side in sides)
    control = [paired and arm.kv.split()[0] == baseline.kv.split()[0] for arm in arms]
    value = ENDPOINTS[baseline.primary]
    tested = [arm for arm, is_control in zip(arms, control, strict=True) if not is_control]
    pairs = {arm.name: _valid(baseline, arm, paired, value) for arm in arms}
    claims: dict[str, tuple[str, float | None]] = {}
    if complete:
        some = [list(_shares(pairs[arm.name], value).values()) for arm in tested]
        decisions = decide(some, baseline.margin, baseline.alpha)
        for arm, decision in zip(tested, decisions, strict=True):
            claim = decision.claim if paired else Claim.INCONCLUSIVE
            claims[arm.name] = (str(claim), decision.p_holm)
    made = [
        _arm(
            baseline,
            arm,
            pairs[arm.name],
            is_control,
            paired,
            complete,
            value,
            claims.get(arm.name, (None, None)),
        )
        for arm, is_control in zip(arms, control, strict=True)
    ]
    return Comparison(
        baseline=baseline.name,
        baseline_kv=baseline.kv,
        paired=paired,
        complete=complete,
        done=sum(len(side.trials) for side in sides),
        planned=sum(side.total for side in sides),
        primary=baseline.primary,
        alpha=baseline.alpha,
        margin=baseline.margin,
        warnings=tuple(_warnings(sides, paired, made, baseline.alpha)),
        arms=tuple(made),
    )


def _arm(
    baseline: Side,
    arm: Side,
    valid: list[Pair],
    control: bool,
    paired: bool,
    complete: bool,
    value: Value,
    claim: tuple[str | None, float | None],
) -> ArmComparison:
    everything = _everything(baseline, arm)
    said = [(one.said, other.said) for _, one, other in valid]
    flips = [
        Flip(instance=key[0], seed=key[1], baseline=one.label, arm=other.label)
        for key, one, other in valid
        if value(one) != value(other)
    ]
    return ArmComparison(
        name=arm.name,
        kv=arm.kv,
        control=control,
        identical=bool(said) and all(one == other != "" for one, other in said),
        claim=claim[0],
        p_holm=claim[1],
        valid=_population(valid, value, complete, baseline.alpha),
        everything=_population(
            everything,
            lambda s: s.valid and bool(value(s)),
            complete,
            baseline.alpha,
        ),
        dropped=_dropped(everything, valid),
        flips=tuple(flips),
        endpoints=tuple(_endpoints(baseline, arm, paired, complete)),
        measures=tuple(_measures(valid)),
    )


ABSENT = Seen("not there", False, False, False, False, 0, 0, 0, 0, 0)


def _everything(baseline: Side, arm: Side) -> list[Pair]:
    keys = sorted(baseline.trials.keys() | arm.trials.keys())
    return [(k, baseline.trials.get(k, ABSENT), arm.trials.get(k, ABSENT)) for k in keys]


def _valid(baseline: Side, arm: Side, paired: bool, value: Value) -> list[Pair]:
    return [
        (key, one, other)
        for key, one, other in _everything(baseline, arm)
        if one.valid
        and other.valid
        and (not paired or one.place == other.place)
        and value(one) is not None
        and value(other) is not None
    ]


def _dropped(everything: list[Pair], valid: list[Pair]) -> dict[str, int]:
    kept = {key for key, _, _ in valid}
    reasons: Counter[str] = Counter()
    for key, one, other in everything:
        if key in kept:
            continue
        said = [
            f"{name} {seen.label}"
            for name, seen in (("baseline", one), ("arm", other))
            if not seen.valid
        ]
        reasons[" and ".join(said) or "the pair crosses a block, or is not known"] += 1
    return dict(reasons)


def _shares(pairs: Iterable[Pair], value: Value) -> dict[str, Shares]:
    """By instance."""
    seeds: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for (instance, _), one, other in pairs:
        seeds[instance].append((bool(value(one)), bool(value(other))))
    return {
        instance: shares([a for a, _ in some], [b for _, b in some])
        for instance, some in seeds.items()
    }


def _population(pairs: list[Pair], value: Value, infer: bool, alpha: float) -> Population:
    counts = Counter((bool(value(one)), bool(value(other))) for _, one, other in pairs)
    table = (
        counts[True, True], counts[True, False], counts[False, True], counts[False, False],
    )  # fmt: skip
    named = _shares(pairs, value)
    by_instance = list(named.values())
    found = None
    if infer and pairs:
        differences = [float(b - c) for b, c in by_instance]
        one_seed = len(by_instance) == len(pairs)
        found = Inference(
            difference=sum(differences) / len(differences),
            interval=score_interval(by_instance, 1 - 2 * alpha),
            interval_95=score_interval(by_instance),
            newcombe_95=newcombe(*table) if one_seed else None,
            repository_95=cluster_interval(
                differences, [name.rpartition("-")[0] for name in named]
            ),
            p_harm=sign_flip(by_instance),
            mid_p=mcnemar_mid_p(table[1], table[2]) if one_seed else None,
            smallest_visible=_visible(by_instance, alpha),
        )
    return Population(
        instances=len(by_instance),
        both=table[0],
        only_baseline=table[1],
        only_arm=table[2],
        neither=table[3],
        inference=found,
    )


def _visible(by_instance: list[Shares], alpha: float) -> float | None:
    """Seeds that agree are worth less than so many pairs, as in the interval."""
    disagree = sum(float(b + c) for b, c in by_instance) / len(by_instance)
    pairs = round(len(by_instance) / agreement(by_instance))
    return smallest_visible(pairs, 1 - disagree, alpha)


def _endpoints(baseline: Side, arm: Side, paired: bool, complete: bool) -> Iterable[EndpointLine]:
    for name, value in ENDPOINTS.items():
        pairs = _valid(baseline, arm, paired, value)
        if pairs:
            yield EndpointLine(
                name=name,
                exploratory=name != baseline.primary,
                baseline=sum(bool(value(one)) for _, one, _ in pairs),
                arm=sum(bool(value(other)) for _, _, other in pairs),
                pairs=len(pairs),
                interval_95=score_interval(list(_shares(pairs, value).values()))
                if complete
                else None,
            )


def _measures(pairs: list[Pair]) -> Iterable[MeasureLine]:
    for name, measure in MEASURES.items() if pairs else ():
        yield MeasureLine(
            name=name,
            baseline_mean=sum(measure(one) for _, one, _ in pairs) / len(pairs),
            arm_mean=sum(measure(other) for _, _, other in pairs) / len(pairs),
        )


def _warnings(
    sides: Sequence[Side], paired: bool, arms: Sequence[ArmComparison], alpha: float
) -> Iterable[str]:
    for arm in arms:
        found = arm.valid.inference
        if not arm.control:
            continue
        if arm.identical:
            yield f"control {arm.kv} identical, noise floor not measured"
        elif found and (found.p_harm < alpha or (found.mid_p or 1.0) < alpha):
            yield (
                f"the control arm {arm.kv} differs from the baseline by more than chance: "
                "whatever made it differ may have made the others"
            )
    if not paired:
        yield MATCHED
    labels = dict.fromkeys(label for side in sides for label in side.settings)
    for label in labels:
        values = [side.settings.get(label, ("not shown",)) for side in sides]
        met = [value for value in values if not (paired and value == ("not shown",))]
        if len(set(met)) > 1:
            shown = "; ".join(
                f"{side.kv}: {', '.join(value)}" for side, value in zip(sides, values, strict=True)
            )
            yield f"not the same {label}: {shown}"
    if any(not side.verified for side in sides):
        yield "unverified: no server log proves what some of these trials ran"
