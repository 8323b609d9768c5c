"""Write a job's outputs for later jobs, and its summary for people."""

import os
import sys
from pathlib import Path

from kvci.errors import UserError
from kvci.text import markdown

SUMMARY_MAX_BYTES = 1 << 20
"""GitHub's limit. GitHub does not show a longer summary at all."""


def output(**values: str) -> None:
    """Write the job's outputs; outside a job, print them."""
    for name, value in values.items():
        if not value.isprintable():
            raise UserError(f"The output {name} contains a control character; see the inputs.")
        _append("GITHUB_OUTPUT", f"{name}={value}\n")


def summary(markdown: str) -> None:
    """Append a text to the job's summary, cut at GitHub's limit; outside a job, print it.

    If that fails, the job continues, because no other job reads the summary.
    """
    content = markdown.encode()
    if len(content) > SUMMARY_MAX_BYTES:
        whole = content[: SUMMARY_MAX_BYTES - 100].rpartition(b"\n")[0]
        content = whole + b"\n\nThe summary is cut here; see the artifact.\n"
    try:
        _append("GITHUB_STEP_SUMMARY", content.decode())
    except OSError as error:
        print(f"kvci: The job's summary cannot be written: {error}", file=sys.stderr)


def failed(sentence: str) -> None:
    """Write the reason for the job's failure to the summary."""
    summary(f"**It failed:** {markdown(sentence)}\n\n")


def _append(variable: str, text: str) -> None:
    if not (name := os.environ.get(variable)):
        print(text, end="")
        return
    with Path(name).open("a") as file:
        file.write(text)
