"""The result of a comparison, as data."""

from typing import Literal

from kvci.files import Document
from kvci.stats.proportion import Interval


class Inference(Document):
    """The statistics of a difference: the baseline's rate minus the arm's rate.

    Intervals are two-sided.
    """

    difference: float
    interval: Interval
    """The score interval of confidence 1 - 2 alpha. It decides the claim of non-inferiority."""
    interval_95: Interval
    newcombe_95: Interval | None
    """Newcombe's interval; None if there are several seeds."""
    repository_95: Interval | None
    """The interval with repositories as clusters. All three fields named `repository_...` are None
    if there is one repository, or if no pair differs."""
    repository_bootstrap_95: Interval | None
    p_harm: float
    """The one-sided p value of harm, uncorrected."""
    mid_p: float | None
    """McNemar's two-sided mid-p value; None if there are several seeds."""
    minimum_detectable_effect: float | None
    """The smallest harm that such pairs show in 80 % of cases; None if no harm is shown so often.
    """
    repository_minimum_detectable_effect: float | None
    equivalent: bool | None
    """True if two one-sided tests against the margin show equivalence. The result is exploratory;
    None if there is no margin."""


class Population(Document):
    """Numbers of pairs, by the side that succeeded."""

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
    """A pair in which only one side succeeded, with the classes of both trials."""

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
    """The interval of the mean difference, baseline minus arm, with instances as clusters."""


class SeedLine(Document):
    """How much the seeds of one side agree, over the instances whose seeds are all valid."""

    kv: str
    instances: int
    seeds: int
    icc: float | None
    """The share of the variance that lies between instances."""
    pass_at_k: float
    """The chance that at least one of the k seeds succeeds."""
    pass_hat_k: float
    """The chance that all k seeds succeed."""


class ArmComparison(Document):
    name: str
    kv: str
    control: bool
    """True if the arm repeats the baseline with a harmless change, to measure the noise floor."""
    identical: bool
    """True if all answers are equal to the baseline's answers."""
    claim: str | None
    p_holm: float | None
    valid: Population
    everything: Population
    """All pairs; a trial that infrastructure ended counts as failed."""
    dropped: dict[str, int]
    """Reason why pairs are not valid, with side and class -> number of pairs."""
    flips: tuple[Flip, ...]
    endpoints: tuple[EndpointLine, ...]
    measures: tuple[MeasureLine, ...]


class Comparison(Document):
    baseline: str
    baseline_kv: str
    paired: bool
    complete: bool
    """True if all planned trials of the sides are done."""
    withheld: str
    """Why nothing is inferred, in the words of all outputs; empty if something is inferred."""
    done: int
    planned: int
    primary: str
    alpha: float
    margin: float | None
    warnings: tuple[str, ...]
    arms: tuple[ArmComparison, ...]
    seeds: tuple[SeedLine, ...]
    """Empty if there is one seed, or if nothing is inferred."""
