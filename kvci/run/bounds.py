"""What every sandbox of a run is made with."""

from dataclasses import dataclass
from pathlib import Path

from kvci.sandbox import Caps


@dataclass(frozen=True)
class Bounds:
    scratch: Path
    """The folder that work trees are made in."""
    caps: Caps
    run: str = ""
    """The run's id, for people who look at containers."""
