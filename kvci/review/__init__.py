"""Review pull requests: check rows against records, and records against their evidence."""
