"""Make paired data and claims from records."""
