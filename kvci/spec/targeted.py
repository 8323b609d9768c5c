"""The settings of a targeted rerun."""

from pydantic import Field

from kvci.errors import UserError
from kvci.versioned import Versioned


class Rerun(Versioned):
    """The trials that a targeted rerun repeats. A rerun is never compared with another run."""

    of: str
    """The id of the run whose trials are repeated."""
    filter: str
    """The choice of trials in words: classes and a pattern."""
    instances: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Arm -> the instances that the arm repeats. An arm without an entry repeats all instances."""
    model_sha256: str = ""
    dataset_sha256: str = ""

    def check(self, model_sha256: str, dataset_sha256: str) -> None:
        """Raise UserError if the model or the dataset differs from that of the repeated run."""
        for kind, had, now in (
            ("model", self.model_sha256, model_sha256),
            ("dataset", self.dataset_sha256, dataset_sha256),
        ):
            if had and had != now:
                raise UserError(
                    f"The {kind} differs from the {kind} of the run {self.of} (sha256 {now[:12]}, "
                    f"not {had[:12]}); use the same {kind}."
                )
