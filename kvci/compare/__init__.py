"""Records -> paired data and claims."""
