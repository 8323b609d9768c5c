"""Show the progress of a run: a live view on a terminal, or lines in a log."""

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Self

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kvci.console import Terminal
from kvci.plan import INTERIM
from kvci.rundir.documents import Outcome
from kvci.taxonomy import INFRASTRUCTURE, Class

LINE_S = 10.0
"""The shortest time between two lines in a log."""
WINDOW_S = 60.0
"""The shown tokens per second are the mean over this time."""


class Progress:
    """A context manager that counts outcomes, tokens and busy slots. Threads may share it."""

    def __init__(
        self,
        console: Terminal,
        planned: Mapping[str, int],
        slots: int,
        earlier: Iterable[Outcome] = (),
    ) -> None:
        """`planned`: arm -> number of trials. `earlier`: the outcomes from before a resume."""
        self._console, self._planned, self._slots = console, planned, slots
        self._lock = threading.Lock()
        self._done: Counter[str] = Counter()
        self._resolved: Counter[str] = Counter()
        self._infrastructure: Counter[str] = Counter()
        self._tokens: deque[tuple[float, int]] = deque()
        self._busy = 0
        for outcome in earlier:
            self._count(outcome)
        self._started = self._line_at = time.monotonic()
        self._earlier = self._done.total()
        self._live = Live(console=console, get_renderable=self.view, refresh_per_second=2)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def say(self, line: str) -> None:
        self._console.print(line)

    def outcome(self, outcome: Outcome) -> None:
        with self._lock:
            self._count(outcome)
            left = sum(self._planned.values()) - self._done.total()
            due = not left or time.monotonic() - self._line_at >= LINE_S
            if due:
                self._line_at = time.monotonic()
        if due and not self._console.is_terminal:
            self._console.print(self.line())

    def tokens(self, count: int) -> None:
        with self._lock:
            self._tokens.append((time.monotonic(), count))

    def slot(self, change: int) -> None:
        """Count a conversation: +1 at its start, -1 at its end."""
        with self._lock:
            self._busy += change

    def line(self) -> str:
        """Return all counts in one line, for a log."""
        done, planned = self._done.total(), sum(self._planned.values())
        arms = ", ".join(
            f"{arm} {self._done[arm]}/{count} ({self._resolved[arm]} resolved)"
            for arm, count in self._planned.items()
        )
        interim = f" ({INTERIM})" if done < planned else ""
        return f"{done}/{planned} trials done{interim}: {arms}; {self._pace()}"

    def view(self) -> Group:
        """Return a table with a row for each arm, for a terminal."""
        table = Table(box=None, pad_edge=False)
        for column in ("Arm", "Trials done", "Resolved so far", "Infrastructure failures"):
            table.add_column(column, justify="left" if column == "Arm" else "right")
        for arm, count in self._planned.items():
            cells = (self._resolved[arm], self._infrastructure[arm])
            table.add_row(arm, f"{self._done[arm]}/{count}", *(str(cell) for cell in cells))
        return Group(table, Text(f"{INTERIM}; {self._pace()}"))

    def _pace(self) -> str:
        with self._lock:
            now = time.monotonic()
            while self._tokens and self._tokens[0][0] < now - WINDOW_S:
                self._tokens.popleft()
            span_s = min(WINDOW_S, max(1.0, now - self._started))
            tokens = sum(count for _, count in self._tokens) / span_s
            new = self._done.total() - self._earlier
            left = sum(self._planned.values()) - self._done.total()
            left_s = (now - self._started) / new * left if new else None
        shown = "" if left_s is None else f", about {_duration(left_s)} left"
        return f"{tokens:.0f} tokens/s, {self._busy} of {self._slots} slots busy{shown}"

    def _count(self, outcome: Outcome) -> None:
        self._done[outcome.arm] += 1
        self._resolved[outcome.arm] += outcome.cls is Class.OK
        self._infrastructure[outcome.arm] += outcome.cls in INFRASTRUCTURE


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
