"""The plain model's file, and its twin: the same function in f16, with outlier key channels.

Large models have a few key channels that are far larger than the other channels. A quantized cache
has few steps, and these channels use most of them. The twin gets such channels without a change of
its function: RoPE rotates dimensions in pairs, and the two dimensions of a pair are multiplied by a
power of two in the keys and divided by it in the queries. Every product of a query and a key stays
the same, except for the rounding of weights close to zero.
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
"""The factor of the twin's outlier channels. It was chosen only on the training split."""
HEAD = 64
CHANNELS = (30, 31, 62, 63)
"""The channels of each head that become outliers.

In each quantized block of 32 channels, they are the pair that RoPE rotates most slowly.
"""


def plain() -> Path:
    """Return the path of the model in this package."""
    return Path(__file__).with_name("kvci-calibration.gguf")


def twin(strength: int = STRENGTH) -> Path:
    """Make the twin from the plain model in kvci's cache, and return the twin's path.

    The name of the twin's file contains its sha256. `strength` is a power of two. Raises UserError
    if the cache cannot be written.
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
    """Make a twin with twice the strength, and return its path.

    With q4_0, this twin resolves almost no instance, so that few instances show the harm.
    """
    return twin(2 * STRENGTH)


def plant(path: Path, strength: float) -> None:
    """Change the outlier channels in a model's file.

    The channels are multiplied by `strength` in the keys and divided by it in the queries.
    """
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
