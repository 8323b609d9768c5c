"""The jobs of the GitHub workflows. They read inputs, pass on evidence, and write summaries."""
