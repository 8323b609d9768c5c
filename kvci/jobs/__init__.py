"""Between GitHub Actions and kvci: a workflow's inputs, its jobs' verbs, and their summaries."""
