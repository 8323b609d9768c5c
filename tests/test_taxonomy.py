import re
from typing import Any

import pytest

from kvci.taxonomy import NAMES, Class, Exit, Observed, Verdict, classify, repeats
from tests.conftest import ROOT

SUBMITTED, STEPS = Exit.SUBMITTED, Exit.STEP_LIMIT
FAIL, EMPTY, RESOLVED = Verdict.TESTS_FAIL, Verdict.EMPTY_PATCH, Verdict.RESOLVED
FILES = {"patched_files": frozenset({"a.py"}), "gold_files": frozenset({"a.py"})}
FOREIGN = {"patched_files": frozenset({"b.py"}), "gold_files": frozenset({"a.py"})}


@pytest.mark.parametrize(
    ("ended", "verdict", "more", "expected"),
    [
        (SUBMITTED, RESOLVED, {"instance_invalid": True}, "I0"),
        (Exit.SANDBOX_FAILED, Verdict.NOT_GRADED, {}, "I1"),
        (Exit.SERVER_FAILED, Verdict.NOT_GRADED, {"server_failures": 3}, "I2"),
        (
            Exit.SERVER_FAILED,
            Verdict.NOT_GRADED,
            {"server_failures": 3, "other_arm_completed": True},
            "A12",
        ),
        (
            Exit.SERVER_FAILED,
            Verdict.NOT_GRADED,
            {"server_failures": 2, "other_arm_completed": True},
            "I2",
        ),
        (Exit.REQUEST_FAILED, EMPTY, {"other_arm_completed": True}, "A12"),
        (SUBMITTED, Verdict.GRADING_FAILED, {}, "I3"),
        (Exit.KVCI_FAILED, Verdict.NOT_GRADED, {}, "I4"),
        (Exit.LOOP, RESOLVED, {}, "OK"),
        (Exit.ANSWER_LIMIT, EMPTY, {}, "A1"),
        (Exit.LOOP, FAIL, {}, "A2"),
        (STEPS, FAIL, {"last_actions": ("a", "b") * 3}, "A2"),
        (Exit.CONTEXT_OVERFLOW, FAIL, {"last_actions": ("a",) * 3}, "A2"),
        (Exit.CONTEXT_OVERFLOW, EMPTY, {}, "A3"),
        (STEPS, EMPTY, {}, "A4"),
        (Exit.TIME_LIMIT, FAIL, {}, "A4"),
        (Exit.FORMAT_ERRORS, EMPTY, {}, "A5"),
        (SUBMITTED, EMPTY, {}, "A6"),
        (SUBMITTED, Verdict.APPLY_FAILED, {}, "A7"),
        (SUBMITTED, Verdict.SYNTAX_ERROR, FOREIGN, "A8"),
        (SUBMITTED, FAIL, FOREIGN, "A9"),
        (SUBMITTED, Verdict.TEST_TIMEOUT, FILES, "A10"),
        (SUBMITTED, FAIL, FILES, "A11a"),
        (SUBMITTED, Verdict.TESTS_BROKEN, FILES, "A11b"),
    ],
)
def test_first_match(ended: Exit, verdict: Verdict, more: dict[str, Any], expected: str) -> None:
    found, why = classify(Observed(ended, verdict, **more))
    assert found == expected
    assert why


def test_rules_list_the_classes_in_the_order_of_the_table() -> None:
    """The first row that fits decides, so the page must have the order of `classify`."""
    rules = (ROOT / "kvci" / "RULES.md").read_text()
    listed = [
        (name, words)
        for name, words in re.findall(r"^\| (\w+) ([^|]+?) \|", rules, re.M)
        if name in set(Class)
    ]
    assert listed == [(str(one), words) for one, words in NAMES.items()], (
        "the table of kvci/RULES.md and NAMES of kvci/taxonomy.py differ"
    )


def test_every_exit_and_verdict_has_a_class() -> None:
    for ended in Exit:
        for verdict in Verdict:
            assert classify(Observed(ended, verdict))[0] in NAMES
    assert set(NAMES) == set(Class)


@pytest.mark.parametrize(
    ("actions", "expected"),
    [("xaaa", True), ("aa", False), ("ababab", True), ("xabab", False), ("abcabcabc", True)],
)
def test_repeated_actions_are_found(actions: str, expected: bool) -> None:
    assert repeats(tuple(actions)) is expected
