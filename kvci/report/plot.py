"""Make plots that GitHub draws from Markdown."""

import re
from collections.abc import Sequence

from kvci.record.schema import Record


def bars(title: str, names: Sequence[str], shares: Sequence[float]) -> str:
    """Return a bar chart of shares. A name is an id or a number; other signs become `?`."""
    quoted = ", ".join(f'"{re.sub(r"[^A-Za-z0-9 ._+/-]", "?", name)}"' for name in names)
    return "\n".join(
        (
            "```mermaid",
            "xychart-beta",
            f'  title "{title}"',
            f"  x-axis [{quoted}]",
            '  y-axis "%" 0 --> 100',
            f"  bar [{', '.join(f'{100 * share:.1f}' for share in shares)}]",
            "```",
            "",
        )
    )


def run_bars(records: Sequence[Record]) -> str:
    """Return a bar chart: the arms' rates if all trials are done, else the shares of done trials.

    So a nightly run shows no rate before its end. Targeted reruns never show a rate, because their
    trials were chosen by their outcomes.
    """
    names = [record.arm for record in records]
    if all(record.complete and not record.rerun for record in records):
        return bars("Resolved, %", names, [record.resolved / record.total for record in records])
    shares = [len(record.counted) / max(1, record.total) for record in records]
    return bars("Trials done, %", names, shares)
