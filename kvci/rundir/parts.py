"""A run on disk: one run directory, or one run directory for each shard."""

from pathlib import Path

from kvci.rundir.directory import RunDirectory, shards
from kvci.rundir.documents import Manifest, Outcome
from kvci.spec import Spec


class Run:
    """The whole run in one folder, with all its shards."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shards = [RunDirectory(part) for part in shards(path)]
        """The run directories of the shards, in their order; empty if the run has no shards."""

    @property
    def parts(self) -> list[RunDirectory]:
        """The run directories of the shards, or the one directory of a run without shards."""
        return self.shards or [RunDirectory(self.path)]

    @property
    def exists(self) -> bool:
        return bool(self.shards) or RunDirectory(self.path).exists

    @property
    def manifest(self) -> Manifest:
        """The manifest of the first part. Raises UserError if the folder contains no run."""
        return self.parts[0].manifest

    @property
    def spec(self) -> Spec:
        """The specification of the first part. Raises UserError if it cannot be read."""
        return self.parts[0].spec

    @property
    def demo(self) -> bool:
        """True if every part is a demo. A demo is never published and never becomes a row."""
        return all(part.manifest.demo for part in self.parts)

    def outcomes(self) -> list[Outcome]:
        return [outcome for part in self.parts for outcome in part.outcomes()]
