"""The settings that all sandboxes of a run share."""

from dataclasses import dataclass
from pathlib import Path

from kvci.sandbox import Caps


@dataclass(frozen=True)
class Bounds:
    scratch: Path
    """The folder for work trees."""
    caps: Caps
    run: str = ""
    """The run's id. It is a label on containers, so that people see which run made them."""
