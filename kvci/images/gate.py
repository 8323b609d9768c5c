"""The gate of a registry: one pull that meets the registry's limit makes all pulls wait."""

import threading
import time
from dataclasses import dataclass, field

from kvci.children import ENDING


@dataclass
class Gate:
    """The gate of one registry. Its times are those of the monotonic clock."""

    opens: float = 0.0
    pulled: float = 0.0
    """When an image was last pulled."""
    gave_up: float = 0.0
    """When kvci last gave up on this registry; it does not retry there until an image arrives."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def close(self, seconds: float) -> None:
        with self.lock:
            self.opens = max(self.opens, time.monotonic() + seconds)

    def wait(self, until_s: float) -> float:
        """Wait until the gate opens, `until_s`, or the end of kvci; returns the seconds waited."""
        began = time.monotonic()
        while (left := min(self.opens, until_s) - time.monotonic()) > 0:
            if ENDING.wait(min(left, 1.0)):
                break
        return time.monotonic() - began


@dataclass
class Mirror:
    """A registry with the same repositories, which is asked before the images' own registries."""

    address: str
    gate: Gate = field(default_factory=Gate)
    failed: set[str] = field(default_factory=set)
    """The images that it did not deliver since it last delivered one."""

    def is_down(self) -> bool:
        """True after two images; a single image may itself be the cause."""
        return len(self.failed) >= 2
