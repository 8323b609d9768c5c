"""Show a comparison as Markdown or in a terminal: claims first, then one table."""

import textwrap
from collections.abc import Callable, Iterator

from rich.table import Table

from kvci.compare.findings import ArmComparison, Comparison, Inference
from kvci.console import Terminal
from kvci.report.claims import claim_text, headlines
from kvci.report.details import Section, sections
from kvci.report.formats import confidence, detectable, interval, p_value, points
from kvci.report.tables import table
from kvci.text import markdown as inert

ARM_WIDTH = 16
"""Width of an arm's column in a terminal, in characters; a typical interval fits."""
WORD_MAX = 16
"""Words up to this length are never broken in a terminal."""
EXPLANATION = (
    "Difference: the baseline's rate minus the arm's, in percentage points; above 0 the arm is "
    "worse. p: the one-sided p value of harm, after Holm's correction over the KV arms. Minimum "
    "detectable effect: the harm that these pairs would have shown in 80 % of cases."
)
MORE = "--details shows pairs, intervals by repository, endpoints, flips and more."


def columns(found: Comparison) -> dict[str, Callable[[ArmComparison], str]]:
    """Return the table of claims: header -> function that gives an arm's cell.

    To add a column, add one line here.
    """
    return {
        "Arm": lambda arm: arm.kv,
        f"Baseline {found.primary}": lambda arm: _of_pairs(arm, arm.valid.only_baseline),
        f"Arm {found.primary}": lambda arm: _of_pairs(arm, arm.valid.only_arm),
        "Difference": _inferred(lambda inference: points(inference.difference)),
        f"{confidence(found.alpha)} interval": _inferred(
            lambda inference: interval(inference.interval)
        ),
        "p (harm, Holm)": lambda arm: (
            "" if arm.p_holm is None or not arm.valid.inference else p_value(arm.p_holm)
        ),
        "Minimum detectable effect": _inferred(
            lambda inference: detectable(inference.minimum_detectable_effect)
        ),
        "Pairs": lambda arm: str(arm.valid.pairs),
        "Claim": lambda arm: claim_text(found, arm),
    }


def _of_pairs(arm: ArmComparison, only: int) -> str:
    return f"{arm.valid.both + only}/{arm.valid.pairs}"


def _inferred(cell: Callable[[Inference], str]) -> Callable[[ArmComparison], str]:
    """Return a function that gives the cell of an arm; empty if nothing is inferred."""
    return lambda arm: cell(arm.valid.inference) if arm.valid.inference else ""


def markdown(found: Comparison) -> str:
    """Return the comparison with all its sections, as Markdown."""
    header = columns(found)
    rows = [[cell(arm) for cell in header.values()] for arm in found.arms]
    lines = ["## Claims", "", *(f"- {inert(line)}" for line in headlines(found)), ""]
    lines += [f"{inert(line)}\n" for line in _warnings(found)]
    lines += [*table(tuple(header), rows), ""]
    lines += [f"{inert(line)}\n" for line in _notes(found)]
    for section in sections(found):
        lines += [f"## {section.heading}", "", *(f"{inert(line)}\n" for line in section.words)]
        lines += [*table(section.header, section.rows), ""]
    return "\n".join(lines)


def text(found: Comparison, console: Terminal, details: bool = False) -> None:
    """Print claims, warnings and the table of claims; if `details`, also all other sections."""
    _print(console, *headlines(found))
    console.print()
    if warnings := _warnings(found):
        _print(console, *warnings)
        console.print()
    for block in _blocks(found, console.width):
        console.print(block)
        console.print()
    _print(console, *_notes(found), *(() if details else (MORE,)))
    for section in sections(found) if details else ():
        _print_section(section, console)


def _print(console: Terminal, *lines: str) -> None:
    """Print each line, wrapped at words; the second and later parts of a line are indented."""
    for line in lines:
        wrapped = textwrap.fill(
            line,
            console.width,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        console.print(wrapped, highlight=False)


def _warnings(found: Comparison) -> list[str]:
    return [f"Warning: {warning}." for warning in found.warnings]


def _notes(found: Comparison) -> list[str]:
    design = "paired" if found.paired else "matched, not paired"
    about = f"Baseline: {found.baseline_kv} ({found.baseline}). Trials are {design}."
    return [about, EXPLANATION] if any(arm.valid.inference for arm in found.arms) else [about]


def _blocks(found: Comparison, width: int) -> Iterator[Table]:
    """Yield the table of claims for a terminal, in blocks.

    A block has one line per column, and as many arms side by side as fit the width.
    """
    header = columns(found)
    cells = {name: [cell(arm) for arm in found.arms] for name, cell in header.items()}
    cells = {name: texts for name, texts in cells.items() if any(texts)}
    words = [word for texts in cells.values() for cell in texts for word in cell.split()]
    arm_width = max(ARM_WIDTH, *map(len, words))
    first, *rest = cells
    label_width = max(map(len, cells))
    at_a_time = max(1, (width - label_width) // (arm_width + 2))
    for start in range(0, len(found.arms), at_a_time):
        arms = slice(start, start + at_a_time)
        block = Table(box=None, pad_edge=False, header_style="bold")
        block.add_column(first, width=label_width)
        for name in cells[first][arms]:
            block.add_column(name, width=arm_width, overflow="fold")
        for name in rest:
            block.add_row(name, *cells[name][arms])
        yield block


def _print_section(section: Section, console: Terminal) -> None:
    console.print(f"\n{section.heading}", style="bold", highlight=False)
    for line in section.words:
        console.print(line, highlight=False)
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column, cells in zip(section.header, zip(*section.rows, strict=True), strict=True):
        shown.add_column(column, overflow="fold", min_width=_longest_word(column, *cells))
    for row in section.rows:
        shown.add_row(*row)
    console.print(shown)


def _longest_word(*cells: str) -> int:
    return min(WORD_MAX, max((len(word) for cell in cells for word in cell.split()), default=1))
