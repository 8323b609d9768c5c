"""What people read: tables, BENCHMARKS.md, and the verbs that write them."""
