"""The model was trained on today's agent and suite, and its twin is the same function in f16."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from numpy.typing import NDArray
from training.identity import NAMES, taught

from kvci.demo.model import CHANNELS, HEAD, plain, twin
from kvci.errors import UserError

MB_MAX = 16


def strings(path: Path) -> dict[str, str]:
    fields = GGUFReader(path).fields
    return {name: fields[name].contents() for name in (*NAMES.values(), "general.license")}


def test_the_model_was_trained_on_todays_agent() -> None:
    found = strings(plain())
    same = {name: found[name] for name in taught()} == taught()
    assert same, (
        "The agent's prompt, protocol or observations, or the suite differ from what the "
        "calibration model was trained on; train it again (kvci/demo/CARD.md)."
    )
    assert found["general.license"] == "mit"
    assert plain().stat().st_size <= MB_MAX * 10**6


def weights(path: Path) -> dict[str, NDArray[np.float64]]:
    return {t.name: np.array(t.data, np.float64) for t in GGUFReader(path).tensors}


def test_the_twin_has_outliers_and_equal_products(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVCI_CACHE", str(tmp_path))
    path = twin()
    assert path.is_relative_to(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(b"half")
    assert twin() == path and path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]
    one, two = weights(plain()), weights(path)
    changed = {name for name in one if not np.array_equal(one[name], two[name])}
    assert changed == {f"blk.{n}.attn_{part}.weight" for n in range(8) for part in "kq"}
    keys, queries = (f"blk.0.attn_{part}.weight" for part in "kq")
    outliers = [head + channel for head in range(0, 256, HEAD) for channel in CHANNELS]
    for row in range(256):
        grown = np.abs(two[keys][row]).max() / np.abs(one[keys][row]).max()
        assert grown == (32 if row in outliers else 1)
        before, after = (np.outer(model[queries][row], model[keys][row]) for model in (one, two))
        assert np.allclose(before, after, rtol=1e-2, atol=1e-6)


def test_an_unwritable_cache_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVCI_CACHE", "/proc/none")
    with pytest.raises(UserError, match="set KVCI_CACHE to a folder that kvci can"):
        twin()
