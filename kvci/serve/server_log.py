"""Read the messages of a server's log, and find the error of a start that failed."""

import json
import re

LOADING = re.compile(r": loading model")
READY = re.compile(r"model loaded|slots are idle|listening on http")
LABELLED = re.compile(r"(?:[\d.]+ )?([A-Z]) (.*)")
"""A line with llama.cpp's prefix: a time, a level (E means error), then the message."""
UNLABELLED_ERROR = re.compile(
    r"(?i:\berror\b|\bfailed to\b|out of memory)|^\w+Error: |GGML_ASSERT\(|what\(\): "
)
"""An error in a line without a level.

The parser of the flags, the loader, an abort and Python write such lines.
"""
REASON = re.compile(r"(?:error loading model|failed to initialize the context): (.*)")


def lines_of(log: str) -> list[str]:
    """Return the messages of a text log, or of a log written with `--log-jsonl`.

    In the second case, each message that is an error starts with `E `.
    """
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
    """Return the error that ended the last start in a log.

    Return None if the server started or the log shows no error. llama.cpp reports the cause first,
    and then everything that failed because of it. The last message is "exiting due to model loading
    error". An error before the loading of the model counts only if no error follows: a server
    continues, for example, if it cannot use a GPU.
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
