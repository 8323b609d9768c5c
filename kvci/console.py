"""The console of everything that kvci prints with rich."""

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from kvci.text import Guarded, terminal


class Terminal(Console):
    """A console that prints text as it is: rich's markup and names of emoji mean nothing in it.

    The detail of a failure may contain `[/INST]`, or a path in brackets. In a job, the console uses
    no colors.
    """

    def __init__(self, **options: Any) -> None:
        stream: Any = sys.stderr if options.get("stderr") else sys.stdout
        if isinstance(stream, Guarded) and "file" not in options:
            # The guard would also remove the escape sequences of rich itself.
            options |= (
                {"file": stream, "force_terminal": False} if stream.job else {"file": stream.stream}
            )
        super().__init__(**options, markup=False, emoji=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            inert = segment.control or terminal(segment.text) == segment.text
            yield segment if inert else Segment(terminal(segment.text), segment.style)
