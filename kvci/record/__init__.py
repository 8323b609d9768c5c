"""Records, the evidence that rows are derived from, and BENCHMARKS.md, which shows them."""
