"""Find the lines that a pull request adds and removes, in a time that grows with their number.

difflib needs minutes for some hundred similar lines, and anyone may send thousands.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence


def edited(old: Sequence[str], new: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the added lines and the removed lines. A line that moves is in both lists.

    Lines that both texts have once, in the same order, split the texts (patience diff). Between two
    of them, only equal starts and equal ends count as kept.
    """
    added: list[str] = []
    removed: list[str] = []
    old, new = _without_equal_ends(old, new)
    was = now = 0
    for here, there in [*_anchors(old, new), (len(old), len(new))]:
        gone, come = _without_equal_ends(old[was:here], new[now:there])
        removed += gone
        added += come
        was, now = here + 1, there + 1
    return added, removed


def _without_equal_ends(
    old: Sequence[str], new: Sequence[str]
) -> tuple[Sequence[str], Sequence[str]]:
    shorter = min(len(old), len(new))
    start = next((n for n in range(shorter) if old[n] != new[n]), shorter)
    left = shorter - start
    end = next((n for n in range(left) if old[-1 - n] != new[-1 - n]), left)
    return old[start : len(old) - end], new[start : len(new) - end]


def _anchors(old: Sequence[str], new: Sequence[str]) -> list[tuple[int, int]]:
    """Return the positions of lines that both texts have once, as many as keep their order."""
    of_old, of_new = Counter(old), Counter(new)
    where = {line: number for number, line in enumerate(old) if of_old[line] == of_new[line] == 1}
    pairs = [(where[line], number) for number, line in enumerate(new) if line in where]
    ends: list[int] = []  # the smallest last position of a sequence with this length
    last: list[int] = []  # the pair at that position
    before: list[int | None] = []
    for number, (position, _) in enumerate(pairs):
        length = bisect_left(ends, position)
        before.append(last[length - 1] if length else None)
        ends[length : length + 1], last[length : length + 1] = [position], [number]
    found: list[tuple[int, int]] = []
    step = last[-1] if last else None
    while step is not None:
        found.append(pairs[step])
        step = before[step]
    return found[::-1]
