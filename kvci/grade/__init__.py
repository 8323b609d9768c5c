"""Patch -> verdict, with swebench's own specs, log parsers and grading."""
