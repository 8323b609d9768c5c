"""The messages of a server's log."""

import json


def lines_of(log: str) -> list[str]:
    """The messages of a text log or of one written with `--log-jsonl`."""
    lines: list[str] = []
    for line in log.splitlines():
        if line.startswith("{"):
            try:
                message = json.loads(line).get("msg", "")
            except (ValueError, AttributeError):
                message = line
            lines += str(message).splitlines()
        else:
            lines.append(line)
    return lines
