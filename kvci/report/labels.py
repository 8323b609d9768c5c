"""Add the names of the classes to class labels."""

import re

from kvci.taxonomy import titled

CODES = re.compile(r"\b(?:OK|[AI]\d+[ab]?)(?:/(?:OK|[AI]\d+[ab]?))*\b")
IMPORTED_LABEL = ("A8-A11", "A8/A9/A11a/A11b")
"""The label of an imported trial that may have four classes, and the list of these classes."""


def with_class_names(text: str) -> str:
    """Return the text with a name after each class: "arm I3" -> "arm I3 grading"."""
    split = text.replace(*IMPORTED_LABEL)
    return CODES.sub(lambda found: " or ".join(map(titled, found[0].split("/"))), split)
