"""Plots that GitHub draws from Markdown."""

from collections.abc import Sequence

from kvci.record.schema import Record


def bars(title: str, names: Sequence[str], shares: Sequence[float]) -> str:
    """Names are such as need no escape: arms' ids, experiments', numbers."""
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


def of_run(records: Sequence[Record]) -> str:
    """The arms' rates when all trials are done, and how far each arm is before: nobody looks every
    night. Trials that were chosen by what became of them have no rate."""
    names = [record.arm for record in records]
    if all(record.complete and not record.rerun for record in records):
        return bars("Resolved, %", names, [record.resolved / record.total for record in records])
    shares = [len(record.counted) / max(1, record.total) for record in records]
    return bars("Trials done, %", names, shares)
