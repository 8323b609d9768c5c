"""One task of a dataset, with the files of its repository."""

from dataclasses import dataclass, field

from kvci.tasks.row import Row


@dataclass(frozen=True)
class Instance:
    """A row, and the files of its repository at the base commit (file name -> text).

    `files` is empty if an image contains the repository.
    """

    row: Row
    files: dict[str, str] = field(default_factory=dict)
    kind: str = ""
    """The kind of bug, if the instance is from the calibration suite."""
