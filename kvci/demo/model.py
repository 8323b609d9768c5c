"""The model's file, and its twin's: the same function in f16, with outlier key channels.

Large models have a few channels of keys that are far larger than the others, and a quantized cache
spends its few steps on them. The twin has them by an equivalence: the two dimensions of a pair that
RoPE turns together are multiplied by a power of two in the keys and divided by it in the queries,
so that every product of a query with a key is what it was, but for the rounding of weights that are
almost nothing.
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
"""Of the twin that the package speaks of. Fixed on the training split's instances alone."""
HEAD = 64
CHANNELS = (30, 31, 62, 63)
"""In each head of 64: the pair that turns most slowly, of each block of 32 that is quantized."""


def plain() -> Path:
    """The model that the package ships."""
    return Path(__file__).with_name("kvci-calibration.gguf")


def twin(strength: int = STRENGTH) -> Path:
    """Made from the plain model, every time anew, and named by its content.

    `strength` is a power of two. Raises UserError if the cache cannot be written.
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
            "set KVCI_CACHE to a folder that can."
        ) from None


def strong_twin() -> Path:
    """With twice the outliers: q4_0 resolves next to nothing, so that few instances show it."""
    return twin(2 * STRENGTH)


def plant(path: Path, strength: float) -> None:
    """Change a model's file in place."""
    from gguf import GGUFReader

    def scale(by: float) -> Callable[[Any], None]:
        def rows(weight: Any) -> None:
            for first in range(0, len(weight), HEAD):
                for channel in CHANNELS:
                    weight[first + channel] *= by

        return rows

    changes = {"attn_k": scale(strength), "attn_q": scale(1 / strength)}
    reader = GGUFReader(path, "r+")
    for tensor in reader.tensors:
        _, _, part = tensor.name.removesuffix(".weight").rpartition(".")
        if part in changes:
            changes[part](tensor.data)
    reader.data.flush()
