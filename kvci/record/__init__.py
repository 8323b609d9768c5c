"""Records: the evidence that everything shown is derived from."""
