"""What the jobs of the GitHub workflows do: read inputs, pass evidence on, write summaries."""
