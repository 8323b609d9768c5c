"""The gate of a registry: if one pull reaches the registry's limit, all pulls wait."""

import threading
import time
from dataclasses import dataclass, field

from kvci.children import ENDING


@dataclass
class Gate:
    """The gate of one registry. Its times are those of the monotonic clock."""

    opens: float = 0.0
    pulled: float = 0.0
    """The time of the last pull that succeeded."""
    gave_up: float = 0.0
    """When kvci last stopped retrying at this registry. It retries again when an image arrives."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def close(self, seconds: float) -> None:
        with self.lock:
            self.opens = max(self.opens, time.monotonic() + seconds)

    def wait(self, until_s: float) -> float:
        """Wait until the gate opens, `until_s`, or a stop of kvci; return the seconds waited."""
        began = time.monotonic()
        while (left := min(self.opens, until_s) - time.monotonic()) > 0:
            if ENDING.wait(min(left, 1.0)):
                break
        return time.monotonic() - began


@dataclass
class Mirror:
    """A registry with the same repositories. kvci asks it before the images' own registries."""

    address: str
    gate: Gate = field(default_factory=Gate)
    failed: set[str] = field(default_factory=set)
    """The images that the mirror did not deliver since its last delivery."""

    def is_down(self) -> bool:
        """True if two images failed. If only one image failed, the image may be the cause."""
        return len(self.failed) >= 2
