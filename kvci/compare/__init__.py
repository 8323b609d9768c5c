"""Records -> paired evidence and verdicts."""
