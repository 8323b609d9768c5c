"""The console of everything that kvci prints with rich."""

from typing import Any

from rich.console import Console


class Terminal(Console):
    """A console that prints text as it is: rich's markup and names of emoji mean nothing in it.

    The detail of a failure may contain `[/INST]`, or a path in brackets.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, markup=False, emoji=False)
