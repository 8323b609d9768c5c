"""What a job says: its outputs, for the jobs after it, and its summary, for a person."""

import os
from pathlib import Path

from kvci.report.tables import inert

SUMMARY_MAX_BYTES = 1 << 20
"""GitHub's limit; what is longer is not shown at all."""


def output(**values: str) -> None:
    """For the jobs after this one; where there are none, in the terminal."""
    for name, value in values.items():
        assert "\n" not in value, name
        _append("GITHUB_OUTPUT", f"{name}={value}\n")


def summary(markdown: str) -> None:
    content = markdown.encode()
    if len(content) > SUMMARY_MAX_BYTES:
        whole = content[: SUMMARY_MAX_BYTES - 100].rpartition(b"\n")[0]
        content = whole + b"\n\nCut here; the artifact has the rest.\n"
    _append("GITHUB_STEP_SUMMARY", content.decode())


def failed(sentence: str) -> None:
    """Why a job ends here."""
    summary(f"**It failed:** {inert(' '.join(sentence.split()))}\n\n")


def _append(variable: str, text: str) -> None:
    if not (name := os.environ.get(variable)):
        print(text, end="")
        return
    with Path(name).open("a") as file:
        file.write(text)
