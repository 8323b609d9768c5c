"""Patch -> verdict, with swebench's own specs, log parsers and grading.

Importing swebench takes seconds, so `grade.py` does it, and only who grades imports that.
"""

from kvci.files import Document
from kvci.taxonomy import Verdict


class Graded(Document):
    """A verdict with its evidence; counts are passed tests of all tests."""

    verdict: Verdict
    detail: str = ""
    applies: bool | None = None
    fail_to_pass: tuple[int, int] = (0, 0)
    pass_to_pass: tuple[int, int] = (0, 0)
    eval_s: float = 0.0
