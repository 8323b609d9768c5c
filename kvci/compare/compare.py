"""Make pairs, tables and claims from sides. RULES.md says what may be claimed."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from statistics import mean

from kvci.compare.caution import cautions
from kvci.compare.endpoint import ENDPOINTS, MEASURES, Endpoint
from kvci.compare.findings import (
    ArmComparison,
    Comparison,
    EndpointLine,
    Flip,
    Inference,
    MeasureLine,
    Population,
    SeedLine,
)
from kvci.compare.pairs import (
    Pair,
    all_pairs,
    by_instance,
    dropped_pairs,
    unpaired_trials,
    valid_pairs,
)
from kvci.compare.side import ComparedTrial, Side, missing_arms, own_side
from kvci.plan import INTERIM
from kvci.record.schema import Record
from kvci.stats.clustered import (
    Shares,
    agreement,
    bootstrap_interval,
    cluster_error,
    cluster_interval,
    score_interval,
    sign_flip,
)
from kvci.stats.decide import Claim, decide, equivalent
from kvci.stats.paired import mcnemar_mid_p, newcombe
from kvci.stats.power import (
    clustered_minimum_detectable_effect,
    observed_minimum_detectable_effect,
)
from kvci.stats.proportion import Interval
from kvci.stats.variance import icc, pass_at_k, pass_hat_k
from kvci.taxonomy import DOUBTFUL


def compare_run(records: Sequence[Record]) -> Comparison | None:
    """Return the comparison of the arms of one run.

    Return None if there is only one arm, or no record of the baseline. Also return None for a
    targeted rerun, because its trials were chosen by their outcomes.
    """
    rerun = any(record.rerun for record in records)
    if rerun or len(records) < 2 or all(record.position for record in records):
        return None
    return compare([own_side(record) for record in records])


def compare(sides: Sequence[Side]) -> Comparison:
    """Return the comparison of each side with the baseline.

    The baseline is the first side. For sides of one run, the run's specification gives the baseline
    and the order. If an arm of the run is missing, nothing is inferred, because arms could then be
    chosen by their results. Raises ValueError if there are fewer than two sides, or if the baseline
    of the run is missing.
    """
    if len(sides) < 2:
        raise ValueError("a comparison needs a baseline and an arm")
    paired = bool(sides[0].run) and all(side.run == sides[0].run for side in sides)
    if paired:
        sides = sorted(sides, key=lambda side: side.arms.index(side.arm))
        if sides[0].arm != sides[0].arms[0]:
            raise ValueError("a comparison of one run needs its baseline")
    baseline, *arms = sides
    value = ENDPOINTS[baseline.primary]
    withheld = _withheld(sides, value)
    pairs = {arm.name: valid_pairs(baseline, arm, paired, value) for arm in arms}
    controls = {arm.name for arm in arms if paired and arm.kv_type == baseline.kv_type}
    tested = [arm.name for arm in arms if arm.name not in controls]
    corrected = baseline.alpha / max(1, len(tested))
    claims: dict[str, tuple[str, float]] = {}
    if not withheld:
        instances = [list(by_instance(pairs[name], value).values()) for name in tested]
        decisions = decide(instances, baseline.margin, baseline.alpha)
        for name, decision in zip(tested, decisions, strict=True):
            proven = paired and all(side.verified for side in sides)
            claim = decision.claim if proven else Claim.INCONCLUSIVE
            claims[name] = (str(claim), decision.p_holm)
    compared = tuple(
        _arm(
            baseline,
            arm,
            pairs[arm.name],
            arm.name in controls,
            paired,
            None if withheld else corrected,
            value,
            claims.get(arm.name, (None, None)),
        )
        for arm in arms
    )
    return Comparison(
        baseline=baseline.name,
        baseline_kv=baseline.kv,
        paired=paired,
        complete=all(side.complete for side in sides),
        withheld=withheld,
        done=sum(len(side.trials) for side in sides),
        planned=sum(side.total for side in sides),
        primary=baseline.primary,
        alpha=baseline.alpha,
        margin=baseline.margin,
        warnings=tuple(cautions(sides, paired, compared, baseline.alpha)),
        arms=compared,
        seeds=() if withheld else tuple(_seeds(sides, value)),
    )


def _withheld(sides: Sequence[Side], value: Endpoint) -> str:
    """Return the reason why nothing is inferred; empty if something is inferred.

    If patches were not graded, only failed trials are known, so a comparison would be biased.
    """
    if not all(side.complete for side in sides):
        return INTERIM
    if missing_arms(sides):
        return "part of a run, no claim"
    if any(value(trial) is None for side in sides for trial in side.trials.values()):
        return "not known for all trials, no claim"
    return ""


def _arm(
    baseline: Side,
    arm: Side,
    pairs: list[Pair],
    control: bool,
    paired: bool,
    corrected: float | None,
    value: Endpoint,
    claim: tuple[str | None, float | None],
) -> ArmComparison:
    """Return the comparison of one arm with the baseline.

    `corrected` is alpha divided by the number of tested arms; None if nothing may be inferred.
    """
    every = all_pairs(baseline, arm)
    answers = [(one.answers_sha256, other.answers_sha256) for _, one, other in pairs]
    flips = [
        Flip(instance=key[0], seed=key[1], baseline=_shown(one), arm=_shown(other))
        for key, one, other in pairs
        if value(one) != value(other)
    ]
    return ArmComparison(
        name=arm.name,
        kv=arm.kv,
        control=control,
        identical=bool(answers) and all(one == other != "" for one, other in answers),
        claim=claim[0],
        p_holm=claim[1],
        valid=_population(pairs, value, baseline, corrected),
        everything=_population(
            every,
            lambda trial: trial.valid and bool(value(trial)),
            baseline,
            corrected,
        ),
        dropped=dropped_pairs(every, pairs, paired) | unpaired_trials(baseline, arm),
        flips=tuple(flips),
        endpoints=tuple(_endpoints(baseline, arm, paired, corrected is not None)),
        measures=tuple(_measures(pairs, corrected is not None)),
    )


def _shown(trial: ComparedTrial) -> str:
    """Return the label of a trial, and whether its test output is in doubt."""
    return f"{trial.label} ({DOUBTFUL})" if trial.doubt else trial.label


def _population(
    pairs: list[Pair], value: Endpoint, baseline: Side, corrected: float | None
) -> Population:
    counts = Counter((bool(value(one)), bool(value(other))) for _, one, other in pairs)
    table = (
        counts[True, True], counts[True, False], counts[False, True], counts[False, False],
    )  # fmt: skip
    named = by_instance(pairs, value)
    return Population(
        instances=len(named),
        both=table[0],
        only_baseline=table[1],
        only_arm=table[2],
        neither=table[3],
        inference=_inference(named, table, baseline, corrected) if corrected and pairs else None,
    )


def _inference(
    named: dict[str, Shares], table: tuple[int, int, int, int], baseline: Side, corrected: float
) -> Inference:
    instances = list(named.values())
    differences = [float(b - c) for b, c in instances]
    repositories = [name.rpartition("-")[0] for name in named]
    one_seed = len(instances) == sum(table)
    by_instance_95 = score_interval(instances)
    detectable = _minimum_detectable_effect(instances, corrected)
    return Inference(
        difference=mean(differences),
        interval=score_interval(instances, 1 - 2 * baseline.alpha),
        interval_95=by_instance_95,
        newcombe_95=newcombe(*table) if one_seed else None,
        repository_95=_wider(cluster_interval(differences, repositories), by_instance_95),
        repository_bootstrap_95=bootstrap_interval(differences, repositories),
        p_harm=sign_flip(instances),
        mid_p=mcnemar_mid_p(table[1], table[2]) if one_seed else None,
        minimum_detectable_effect=detectable,
        repository_minimum_detectable_effect=_larger(
            clustered_minimum_detectable_effect(
                cluster_error(differences, repositories), len(set(repositories)), corrected
            ),
            detectable,
        ),
        equivalent=None
        if baseline.margin is None
        else equivalent(instances, baseline.margin, baseline.alpha),
    )


def _wider(clustered: Interval | None, plain: Interval) -> Interval | None:
    """Return the interval that contains both intervals.

    Few repositories can agree by chance, and then the clustered interval is too narrow: clustering
    adds no information.
    """
    if clustered is None:
        return None
    return min(clustered[0], plain[0]), max(clustered[1], plain[1])


def _larger(clustered: float | None, plain: float | None) -> float | None:
    return None if clustered is None or plain is None else max(clustered, plain)


def _minimum_detectable_effect(instances: list[Shares], alpha: float) -> float | None:
    """Return the minimum detectable effect of the pairs.

    It depends on the share of pairs that disagree, minus the difference between the arms.
    Seeds that agree count as fewer pairs, as in `score_interval`.
    """
    difference = abs(sum(float(b - c) for b, c in instances))
    disagree = sum(float(b + c) for b, c in instances) - difference
    pairs = round(len(instances) / agreement(instances))
    return observed_minimum_detectable_effect(pairs, 1 - disagree / len(instances), alpha)


def _endpoints(baseline: Side, arm: Side, paired: bool, complete: bool) -> Iterable[EndpointLine]:
    for name, value in ENDPOINTS.items():
        pairs = valid_pairs(baseline, arm, paired, value)
        instances = list(by_instance(pairs, value).values())
        yield EndpointLine(
            name=name,
            exploratory=name != baseline.primary,
            baseline=sum(bool(value(one)) for _, one, _ in pairs),
            arm=sum(bool(value(other)) for _, _, other in pairs),
            pairs=len(pairs),
            interval_95=score_interval(instances) if complete and instances else None,
        )


def _measures(pairs: list[Pair], complete: bool) -> Iterable[MeasureLine]:
    for name, measure in MEASURES.items():
        known = [
            (key[0], first, second)
            for key, one, other in pairs
            if (first := measure(one)) is not None and (second := measure(other)) is not None
        ]
        if known:
            differences = [first - second for _, first, second in known]
            instances = [instance for instance, _, _ in known]
            yield MeasureLine(
                name=name,
                baseline_mean=mean(first for _, first, _ in known),
                arm_mean=mean(second for _, _, second in known),
                pairs=len(known),
                interval_95=cluster_interval(differences, instances) if complete else None,
            )


def _seeds(sides: Iterable[Side], value: Endpoint) -> Iterable[SeedLine]:
    for side in sides:
        k = len({seed for _, seed in side.trials})
        groups: dict[str, list[bool]] = defaultdict(list)
        for (instance, _), trial in side.trials.items():
            if trial.valid and value(trial) is not None:
                groups[instance].append(bool(value(trial)))
        whole = [group for group in groups.values() if len(group) == k]
        if k > 1 and whole:
            yield SeedLine(
                kv=side.kv,
                instances=len(whole),
                seeds=k,
                icc=icc(whole),
                pass_at_k=mean(pass_at_k(sum(group), k, k) for group in whole),
                pass_hat_k=mean(pass_hat_k(sum(group), k, k) for group in whole),
            )
