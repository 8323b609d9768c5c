"""Edited lines are found, in a time that grows with their number."""

import random
import time
from collections import Counter
from collections.abc import Callable
from difflib import SequenceMatcher

import pytest

from kvci.review.prose import edited


@pytest.mark.parametrize(
    ("old", "new", "added", "removed"),
    [
        ("abc", "abc", "", ""),
        ("", "abc", "abc", ""),
        ("abc", "", "", "abc"),
        ("abc", "abxc", "x", ""),
        ("abc", "ac", "", "b"),
        ("abc", "axc", "x", "b"),
        ("a``b``c", "a``x``c", "x", "b"),  # lines that are there twice stay where they are
        ("a`x`b`y`c", "a`y`c", "", "x`b`"),
        ("ab-cd-ef", "abX-cd-Yef", "XY", ""),
        ("abcdef", "defabc", "def", "def"),  # a moved line is added and removed
        ("aaaa", "aa", "", "aa"),
    ],
)
def test_edited_lines(old: str, new: str, added: str, removed: str) -> None:
    assert tuple("".join(one) for one in edited(old, new)) == (added, removed)


@pytest.mark.parametrize("seed", range(200))
def test_result_turns_the_old_text_into_the_new(seed: int) -> None:
    chance = random.Random(seed)
    old = chance.choices("abcdefgh-", k=chance.randint(0, 30))
    new = [one for one in old if chance.random() < 0.8]
    for _ in range(chance.randint(0, 4)):
        new.insert(chance.randint(0, len(new)), chance.choice("abcxyz-"))
    added, removed = edited(old, new)
    assert Counter(old) - Counter(removed) == Counter(new) - Counter(added)
    assert Counter(old) + Counter(added) == Counter(new) + Counter(removed)
    unique = [one for one in dict.fromkeys(old) if old.count(one) == new.count(one) == 1]
    moved = set(unique) & set(added)
    kept = [one for one in unique if one not in moved]
    assert kept == [one for one in new if one in kept], "what stays keeps its order"
    if len(set(old)) == len(old) and len(set(new)) == len(new):
        blocks = SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
        assert len(old) - len(removed) >= sum(block.size for block in blocks)


CASES: dict[str, tuple[Callable[[int], str], Callable[[int], str]]] = {
    "similar": (lambda n: f"Row {n} of the results, with some words", lambda n: f"Row {n} of them"),
    "equal": (lambda n: "a", lambda n: "b" if n % 2 else "a"),
    "reversed": (lambda n: str(n), lambda n: str(-n)),
    "moved": (lambda n: str(n), lambda n: str((n * 7919) % 20_011)),
}


@pytest.mark.parametrize("name", CASES)
def test_thousands_of_lines_take_seconds(name: str) -> None:
    before, after = CASES[name]
    old, new = [before(n) for n in range(20_000)], [after(n) for n in range(20_000)]
    started = time.monotonic()
    edited(old, new)
    assert time.monotonic() - started < 10
