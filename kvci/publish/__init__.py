"""Publish a run: its evidence in a release, its records and rows in a pull request."""
