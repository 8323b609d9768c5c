"""One task of a dataset, with its repository's files."""

from dataclasses import dataclass, field

from kvci.tasks.row import Row


@dataclass(frozen=True)
class Instance:
    """A row, and its repository at the base commit (file name -> text) if no image holds it."""

    row: Row
    files: dict[str, str] = field(default_factory=dict)
    kind: str = ""
    """The kind of bug in an instance of the calibration suite."""
