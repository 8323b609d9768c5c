"""Tables for people, BENCHMARKS.md, and the verbs that write them."""
