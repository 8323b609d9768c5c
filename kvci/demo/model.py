"""The plain model's file, and its twin: the same function in f16, with outlier key channels.

Large models have a few key channels that are far larger than the others, and the few steps of a
quantized cache are spent on them. The twin gets them by an equivalence: the two dimensions
that RoPE rotates as a pair are multiplied by a power of two in the keys and divided by it in the
queries. Every product of a query and a key stays the same, except for the rounding of weights close
to zero.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kvci.errors import UserError
from kvci.files import sha256_of_file
from kvci.host import cache_folder

STRENGTH = 32
"""The factor of the twin's outlier channels; chosen only on instances of the training split."""
HEAD = 64
CHANNELS = (30, 31, 62, 63)
"""The channels of each head that become outliers: in each quantized block of 32, the pair that RoPE
rotates most slowly."""


def plain() -> Path:
    """The path of the model in this package."""
    return Path(__file__).with_name("kvci-calibration.gguf")


def twin(strength: int = STRENGTH) -> Path:
    """The path of the twin, in kvci's cache; made from the plain model at each call.

    The file's name contains its sha256. `strength` is a power of two. Raises UserError if the cache
    cannot be written.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".twin-", dir=folder) as scratch:
            made = Path(shutil.copyfile(plain(), Path(scratch, "twin.gguf")))
            plant(made, strength)
            name = f"kvci-calibration-twin-{strength}-{sha256_of_file(made)[:12]}.gguf"
            return made.rename(folder / name)
    except OSError as error:
        raise UserError(
            f"The calibration model's twin cannot be written to {folder} ({error.strerror}); "
            "set KVCI_CACHE to a folder that kvci can write to."
        ) from None


def strong_twin() -> Path:
    """The path of a twin of twice the strength: q4_0 resolves almost nothing, so that few instances
    show the harm."""
    return twin(2 * STRENGTH)


def plant(path: Path, strength: float) -> None:
    """Multiply the outlier channels of a model file's keys by `strength`, and divide those of its
    queries."""
    from gguf import GGUFReader

    def scale(factor: float) -> Callable[[Any], None]:
        def rows(weight: Any) -> None:
            for first in range(0, len(weight), HEAD):
                for channel in CHANNELS:
                    weight[first + channel] *= factor

        return rows

    changes = {"attn_k": scale(strength), "attn_q": scale(1 / strength)}
    reader = GGUFReader(path, "r+")
    for tensor in reader.tensors:
        _, _, part = tensor.name.removesuffix(".weight").rpartition(".")
        if part in changes:
            changes[part](tensor.data)
    reader.data.flush()
