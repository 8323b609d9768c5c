"""Patch -> verdict, with swebench's own specs, log parsers and grading.

Only code that grades imports `patch.py`, because it imports swebench, which takes seconds.
"""
