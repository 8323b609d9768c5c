"""Make tables for people, and write BENCHMARKS.md."""
