"""Records: the evidence from which all tables are derived."""
