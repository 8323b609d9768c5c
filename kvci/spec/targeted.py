"""A targeted rerun."""

from pydantic import Field

from kvci.errors import UserError
from kvci.versioned import Versioned


class Rerun(Versioned):
    """What a targeted rerun repeats. It is never compared with anything."""

    of: str
    """The run's id."""
    filter: str
    """Classes and a pattern, in words."""
    instances: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Arm -> the instances that it repeats; an arm that is not named repeats all."""
    model_sha256: str = ""
    dataset_sha256: str = ""

    def check(self, model_sha256: str, dataset_sha256: str) -> None:
        """Raises UserError if the model or the dataset is not the run's."""
        for kind, had, now in (
            ("model", self.model_sha256, model_sha256),
            ("dataset", self.dataset_sha256, dataset_sha256),
        ):
            if had and had != now:
                raise UserError(
                    f"The {kind} differs from the one of {self.of} (sha256 {now[:12]}, not "
                    f"{had[:12]}); a rerun needs the same {kind}."
                )
