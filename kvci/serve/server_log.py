"""The messages of a server's log, and the error that a failed start left in it."""

import json
import re

LOADING = re.compile(r": loading model")
READY = re.compile(r"model loaded|slots are idle|listening on http")
LABELLED = re.compile(r"(?:[\d.]+ )?([A-Z]) (.*)")
"""llama.cpp's prefix: a time, a level (E is an error), the message."""
UNLABELLED_ERROR = re.compile(
    r"(?i:\berror\b|\bfailed to\b|out of memory)|^\w+Error: |GGML_ASSERT\(|what\(\): "
)
"""An error in a line without a level: of the flags' parser, the loader, an abort, or Python."""
REASON = re.compile(r"(?:error loading model|failed to initialize the context): (.*)")


def lines_of(log: str) -> list[str]:
    """The messages of a text log or of one written with `--log-jsonl`; errors start with `E `."""
    lines: list[str] = []
    for line in log.splitlines():
        if line.startswith("{"):
            try:
                entry = json.loads(line)
                label = "E " if str(entry.get("level")).startswith("err") else ""
                message = f"{label}{entry.get('msg', '')}"
            except (ValueError, AttributeError):
                message = line
            lines += message.splitlines()
        else:
            lines.append(line)
    return lines


def start_error(log: str) -> str | None:
    """The error that ended the last start in a log; None if the server started or shows no error.

    llama.cpp reports the cause first and then everything that failed because of it, down to
    "exiting due to model loading error". An error before the model is loaded counts only if none
    follows, because a GPU that cannot be used, for example, ends no server.
    """
    lines = lines_of(log)
    starts = [number for number, line in enumerate(lines) if LOADING.search(line)]
    loading = lines[starts[-1] :] if starts else lines
    if any(READY.search(line) for line in loading):
        return None
    errors = _errors(loading) or _errors(lines)
    if not errors:
        return None
    reason = next((found[1] for error in errors if (found := REASON.search(error))), "")
    return errors[0] if reason in errors[0] else f"{errors[0]}; {reason}"


def _errors(lines: list[str]) -> list[str]:
    errors = []
    for line in lines:
        labelled = LABELLED.match(line)
        if labelled and labelled[1] == "E":
            errors.append(" ".join(labelled[2].split()))
        elif not labelled and UNLABELLED_ERROR.search(line):
            errors.append(line.strip())
    return errors
