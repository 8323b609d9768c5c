"""Publishing: records, rows and evidence on their way to a pull request."""
