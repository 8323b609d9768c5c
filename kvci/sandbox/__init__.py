"""The sandboxes that run the model's commands. `interface.py` defines their methods."""

from kvci.sandbox.interface import (
    LARGE_WRITE_BYTES,
    LARGE_WRITE_FILES,
    TREE,
    Caps,
    DiffFailed,
    Limits,
    Result,
    Sandbox,
    SandboxFailed,
    rejection,
)

__all__ = [
    "LARGE_WRITE_BYTES",
    "LARGE_WRITE_FILES",
    "TREE",
    "Caps",
    "DiffFailed",
    "Limits",
    "Result",
    "Sandbox",
    "SandboxFailed",
    "rejection",
]
