"""The model's file, and its twin's."""

from pathlib import Path


def plain() -> Path:
    """The model that the package ships."""
    return Path(__file__).with_name("kvci-calibration.gguf")
