"""Where the model's commands run. `interface.py` says what a sandbox offers."""

from kvci.sandbox.interface import (
    LARGE_WRITE_BYTES,
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
    "TREE",
    "Caps",
    "DiffFailed",
    "Limits",
    "Result",
    "Sandbox",
    "SandboxFailed",
    "rejection",
]
