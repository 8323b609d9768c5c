"""A clock that stands still while kvci does.

Ctrl-Z and SIGSTOP stop kvci, but not the clock of the machine. Without this clock, the time in
between would end commands and trials, and count as the model's failure.
"""

import threading
import time
from functools import cache

TICK_S, GAP_S = 0.5, 5.0
"""A thread reads the clock every TICK_S. If it did not for GAP_S, kvci stood still."""


class _Awake:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = time.monotonic()
        self._still_s = 0.0
        threading.Thread(target=self._tick, daemon=True).start()

    def read_s(self) -> float:
        with self._lock:
            now = time.monotonic()
            if now - self._last > GAP_S:
                self._still_s += now - self._last
            self._last = now
            return now - self._still_s

    def _tick(self) -> None:
        while True:
            time.sleep(TICK_S)
            self.read_s()


def awake_s() -> float:
    """Return seconds since some moment, like time.monotonic(), without those that kvci stood still.

    The command that kvci waits for may have run on meanwhile.
    """
    return _awake().read_s()


@cache
def _awake() -> _Awake:
    return _Awake()
