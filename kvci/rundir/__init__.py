"""The run directory: its layout, its documents, and the code that reads a run from disk."""
