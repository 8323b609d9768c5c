"""One task of a dataset, and where its repository comes from."""

from dataclasses import dataclass, field

from kvci.tasks.row import Row


@dataclass(frozen=True)
class Instance:
    """A row, and its repository at the base commit, file name -> text, if no image holds it."""

    row: Row
    files: dict[str, str] = field(default_factory=dict)
    kind: str = ""
    """What bug the calibration suite planted."""
