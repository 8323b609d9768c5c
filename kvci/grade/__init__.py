"""Patch -> verdict, with swebench's own specs, log parsers and grading.

Importing swebench takes seconds, so `patch.py` does it, and only who grades imports that.
"""
