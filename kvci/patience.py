"""Waits until a problem is over that the run did not cause: Docker is silent, a disk is full."""

import time
from collections.abc import Callable

from kvci.children import ENDING
from kvci.errors import UserError

PATIENCE_S = 900.0
"""How long kvci waits until Docker answers again or a disk has space again."""


def wait(problem: Callable[[], str], patience_s: float = PATIENCE_S) -> None:
    """Call `problem` every second; return when it returns an empty text.

    The text says what is wrong and what to do. Raises UserError with this text after `patience_s`,
    or when kvci is being stopped.
    """
    until = time.monotonic() + patience_s
    while why := problem():
        if time.monotonic() > until:
            raise UserError(f"{why}, then run the same command again; finished work is kept.")
        if ENDING.wait(1):
            raise UserError(f"kvci was stopped while it waited. {why}.")
