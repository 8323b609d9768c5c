"""Waiting for what a sandbox needs to come back: an engine, room on a disk."""

import time
from collections.abc import Callable

from kvci.children import ENDING
from kvci.errors import UserError

PATIENCE_S = 900.0
"""An engine may take so long to come back, or a disk to have room again."""


def wait(lacks: Callable[[], str], patience_s: float = PATIENCE_S) -> None:
    """Return when `lacks` has nothing more to say. Raises UserError with its words if it always
    has, or at a stop."""
    until = time.monotonic() + patience_s
    while why := lacks():
        if time.monotonic() > until:
            raise UserError(f"{why}, and run the same command again: what is finished is kept.")
        if ENDING.wait(1):
            raise UserError(f"Stopped while waiting. {why}.")
