"""The review of pull requests: rows against records, and records against their evidence."""
