"""Watches the engine's free disk space during the pulls of one wave, to keep the disk budget."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any


@dataclass
class DiskWatch:
    """The space that must stay free on the engine's disk while a wave is pulled.

    The download of a layer does not count as used: the engine deletes it after unpacking.
    """

    floor_bytes: int
    exempt: Collection[str]
    """Images that may take any space."""
    _packed_bytes: dict[tuple[str, str], int] = field(default_factory=dict)
    """(image, layer) -> bytes of the download, until the layer is unpacked."""

    def record(self, image: str, event: dict[str, Any]) -> None:
        """Record one event of the engine about this image's pull."""
        layer, status = (image, str(event.get("id"))), event.get("status")
        if status == "Downloading":
            self._packed_bytes[layer] = int((event.get("progressDetail") or {}).get("current", 0))
        elif status == "Pull complete":
            self._packed_bytes.pop(layer, None)

    def forget(self, image: str) -> None:
        """Drop the downloads of an image whose pull has ended."""
        for layer in [one for one in list(self._packed_bytes) if one[0] == image]:
            self._packed_bytes.pop(layer, None)

    def is_used_up(self, image: str, free_bytes: int) -> bool:
        """True if the pull of this image must stop."""
        packed_bytes = sum(list(self._packed_bytes.values()))
        return image not in self.exempt and free_bytes + packed_bytes < self.floor_bytes
