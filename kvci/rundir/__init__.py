"""The run directory: its layout, its documents, and everything that reads a run from disk."""
