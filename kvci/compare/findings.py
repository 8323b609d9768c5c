"""What a comparison says, as data."""

from typing import Literal

from kvci.files import Document
from kvci.stats.proportion import Interval


class Inference(Document):
    """What is inferred of a difference, baseline less arm; intervals are two-sided."""

    difference: float
    interval: Interval
    """Of confidence 1 - 2 alpha, by the score: what the claim of no harm looks at."""
    interval_95: Interval
    newcombe_95: Interval | None
    """With one seed only, as are `mid_p`."""
    repository_95: Interval | None
    """With repositories as clusters; None with one of them, or where no pair differs, as are the
    two below."""
    repository_bootstrap_95: Interval | None
    p_harm: float
    """One-sided, uncorrected."""
    mid_p: float | None
    """McNemar's, two-sided."""
    minimum_detectable_effect: float | None
    """The harm that these pairs would have shown in 80 % of the cases; None if none."""
    repository_minimum_detectable_effect: float | None
    equivalent: bool | None
    """By two one-sided tests against the margin; exploratory. None without a margin."""


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
    """None of them where a side did not keep it."""
    interval_95: Interval | None


class MeasureLine(Document):
    name: str
    exploratory: Literal[True] = True
    baseline_mean: float
    arm_mean: float
    pairs: int
    interval_95: Interval | None
    """Of the mean difference, baseline less arm, with instances as clusters."""


class SeedLine(Document):
    """How one side's seeds agree, over instances of which all seeds are valid."""

    kv: str
    instances: int
    seeds: int
    icc: float | None
    """The share of the variance between instances."""
    pass_at_k: float
    """Of k seeds, all that there are, at least one succeeds; `pass_hat_k`: each does."""
    pass_hat_k: float


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
    """All planned trials of the sides are done."""
    withheld: str
    """Why nothing is inferred, as every surface says it; empty where something is."""
    done: int
    planned: int
    primary: str
    alpha: float
    margin: float | None
    warnings: tuple[str, ...]
    arms: tuple[ArmComparison, ...]
    seeds: tuple[SeedLine, ...]
    """With several seeds, when all planned trials are done."""
