"""Plots that GitHub draws from Markdown."""

from collections.abc import Sequence

from kvci.record.schema import Record


def bars(title: str, names: Sequence[str], shares: Sequence[float]) -> str:
    """A bar chart of shares. Names must need no escape: ids of arms or experiments, numbers."""
    quoted = ", ".join(f'"{name}"' for name in names)
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
    """The arms' rates when all trials are done; before that, the share of trials that are done.

    So a nightly run shows no rate that a reader could act on early. Targeted reruns have no rate:
    their trials were chosen by their outcomes.
    """
    names = [record.arm for record in records]
    if all(record.complete and not record.rerun for record in records):
        return bars("Resolved, %", names, [record.resolved / record.total for record in records])
    shares = [len(record.counted) / max(1, record.total) for record in records]
    return bars("Trials done, %", names, shares)
