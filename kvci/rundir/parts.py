"""A run as it lies on a disk: one run directory, or those of its shards side by side."""

from pathlib import Path

from kvci.rundir.directory import RunDirectory, shards
from kvci.rundir.documents import Manifest, Outcome
from kvci.spec import Spec


class Run:
    """All of a run that lies in this folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shards = [RunDirectory(part) for part in shards(path)]
        """First shard first; empty if the run is not divided."""

    @property
    def parts(self) -> list[RunDirectory]:
        """The shards' directories, or the one of the run."""
        return self.shards or [RunDirectory(self.path)]

    @property
    def exists(self) -> bool:
        return bool(self.shards) or RunDirectory(self.path).exists

    @property
    def manifest(self) -> Manifest:
        """The first part's. Raises UserError if there is no run."""
        return self.parts[0].manifest

    @property
    def spec(self) -> Spec:
        """The first part's. Raises UserError if there is no run."""
        return self.parts[0].spec

    @property
    def demo(self) -> bool:
        """A demo is never published and never becomes a row."""
        return all(part.manifest.demo for part in self.parts)

    def outcomes(self) -> list[Outcome]:
        return [outcome for part in self.parts for outcome in part.outcomes()]
