"""Class labels with the names of their classes."""

import re

from kvci.taxonomy import titled

CODES = re.compile(r"\b(?:OK|[AI]\d+[ab]?)(?:/(?:OK|[AI]\d+[ab]?))*\b")
IMPORTED_LABEL = ("A8-A11", "A8/A9/A11a/A11b")
"""A label of imported trials whose class is one of these four, and the four."""


def with_class_names(text: str) -> str:
    """The text with each class named: "arm I3" -> "arm I3 grading"."""
    split = text.replace(*IMPORTED_LABEL)
    return CODES.sub(lambda found: " or ".join(map(titled, found[0].split("/"))), split)
