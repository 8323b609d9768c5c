"""The result of a comparison, as data."""

from typing import Literal

from kvci.files import Document
from kvci.stats.proportion import Interval


class Inference(Document):
    """What is inferred about a difference, baseline less arm; intervals are two-sided."""

    difference: float
    interval: Interval
    """Score interval of confidence 1 - 2 alpha; the claim of non-inferiority rests on it."""
    interval_95: Interval
    newcombe_95: Interval | None
    """None with several seeds, like `mid_p`."""
    repository_95: Interval | None
    """With repositories as clusters. This and the other two fields of repositories are None with
    one repository, or if no pair differs."""
    repository_bootstrap_95: Interval | None
    p_harm: float
    """One-sided, uncorrected."""
    mid_p: float | None
    """McNemar's mid-p value, two-sided."""
    minimum_detectable_effect: float | None
    """The harm that these pairs would have shown in 80 % of cases; None if no harm would."""
    repository_minimum_detectable_effect: float | None
    equivalent: bool | None
    """By two one-sided tests against the margin; exploratory, None without a margin."""


class Population(Document):
    """Pairs, counted by which side succeeded."""

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
    """A pair in which only one side succeeded, with the classes of both."""

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
    """0 if a side did not record the endpoint."""
    interval_95: Interval | None


class MeasureLine(Document):
    name: str
    exploratory: Literal[True] = True
    baseline_mean: float
    arm_mean: float
    pairs: int
    interval_95: Interval | None
    """Interval of the mean difference, baseline less arm, with instances as clusters."""


class SeedLine(Document):
    """How one side's seeds agree, over the instances of which all seeds are valid."""

    kv: str
    instances: int
    seeds: int
    icc: float | None
    """The share of the variance that lies between instances."""
    pass_at_k: float
    """The chance that at least one of all k seeds succeeds; `pass_hat_k`: that all of them do."""
    pass_hat_k: float


class ArmComparison(Document):
    name: str
    kv: str
    control: bool
    """The baseline again with a harmless change; it measures the noise floor."""
    identical: bool
    """All answers are equal to the baseline's."""
    claim: str | None
    p_holm: float | None
    valid: Population
    everything: Population
    """All instances; infrastructure counts as failure."""
    dropped: dict[str, int]
    """Why pairs are not valid (side and class) -> number of pairs."""
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
    """Why nothing is inferred, in the words of every surface; empty if something is inferred."""
    done: int
    planned: int
    primary: str
    alpha: float
    margin: float | None
    warnings: tuple[str, ...]
    arms: tuple[ArmComparison, ...]
    seeds: tuple[SeedLine, ...]
    """Filled with several seeds, when all planned trials are done."""
