"""Exits, verdicts and classes as plain data.

`classify` contains a table. The first match in the table wins, so the order of the table is the
rule. This module reads no file and knows no run.
"""

from dataclasses import dataclass, field
from enum import StrEnum


class Exit(StrEnum):
    """Why the conversation ended."""

    NOT_STARTED = "not_started"
    SUBMITTED = "submitted"
    ANSWER_LIMIT = "answer_limit"
    LOOP = "loop"
    CONTEXT_OVERFLOW = "context_overflow"
    STEP_LIMIT = "step_limit"
    TOKEN_LIMIT = "token_limit"
    TIME_LIMIT = "time_limit"
    FORMAT_ERRORS = "format_errors"
    SANDBOX_FAILED = "sandbox_failed"
    SERVER_FAILED = "server_failed"
    REQUEST_FAILED = "request_failed"
    KVCI_FAILED = "kvci_failed"


class Verdict(StrEnum):
    """The result of grading a patch."""

    RESOLVED = "resolved"
    TESTS_FAIL = "tests_fail"
    TESTS_BROKEN = "tests_broken"
    EMPTY_PATCH = "empty_patch"
    APPLY_FAILED = "apply_failed"
    SYNTAX_ERROR = "syntax_error"
    TEST_TIMEOUT = "test_timeout"
    GRADING_FAILED = "grading_failed"
    NOT_GRADED = "not_graded"


class Class(StrEnum):
    """The class of a trial: the first match in the table of `classify`."""

    I0 = "I0"
    I1 = "I1"
    A12 = "A12"
    I2 = "I2"
    I3 = "I3"
    I4 = "I4"
    OK = "OK"
    A1 = "A1"
    A2 = "A2"
    A3 = "A3"
    A4 = "A4"
    A5 = "A5"
    A6 = "A6"
    A7 = "A7"
    A8 = "A8"
    A9 = "A9"
    A10 = "A10"
    A11A = "A11a"
    A11B = "A11b"


NAMES: dict[Class, str] = {
    Class.I0: "instance invalid",
    Class.I1: "environment",
    Class.A12: "server fails in this arm",
    Class.I2: "server",
    Class.I3: "grading",
    Class.I4: "kvci",
    Class.OK: "resolved",
    Class.A1: "runaway",
    Class.A2: "loop",
    Class.A3: "context overflow",
    Class.A4: "limit",
    Class.A5: "malformed",
    Class.A6: "empty patch",
    Class.A7: "patch does not apply",
    Class.A8: "syntax",
    Class.A9: "wrong file",
    Class.A10: "test timeout",
    Class.A11A: "failing tests still fail",
    Class.A11B: "passing tests broke",
}


def titled(label: str) -> str:
    """Return a class with its name: `A6 empty patch`. Return any other text unchanged."""
    return f"{label} {NAMES[Class(label)]}" if label in set(Class) else label


INFRASTRUCTURE = frozenset({Class.I0, Class.I1, Class.I2, Class.I3, Class.I4})
GENERATED_AGAIN = frozenset({Class.I1, Class.I2})
"""The whole trial is repeated after these failures. After I3, only grading is repeated."""
ATTEMPTS_MAX = 3

DOUBTFUL = "test output may not come from the test runner"
"""How a trial is shown whose outcome has a `doubt`. A doubt changes no verdict and no class."""

LIMITS = frozenset({Exit.STEP_LIMIT, Exit.TOKEN_LIMIT, Exit.TIME_LIMIT})


@dataclass(frozen=True)
class Observed:
    """The facts about a trial that decide its class."""

    exit: Exit
    verdict: Verdict
    last_actions: tuple[str, ...] = ()
    instance_invalid: bool = False
    other_arm_completed: bool = False
    """True if another arm completed this instance and seed without a server failure."""
    server_failures: int = 0
    """The number of attempts of this trial, including this one, in which the server failed."""
    patched_files: frozenset[str] = field(default_factory=frozenset)
    gold_files: frozenset[str] = field(default_factory=frozenset)


LAST_ACTIONS = 9
"""Three times the length of the longest cycle that counts as a loop."""


def repeats(actions: tuple[str, ...]) -> bool:
    """True if the actions end with the same action three times in a row.

    Also true if they end with the same cycle of two or three actions, three times in a row.
    """
    for period in (1, 2, 3):
        tail = actions[-3 * period :]
        if len(tail) == 3 * period and tail == tail[:period] * 3:
            return True
    return False


def classify(trial: Observed) -> tuple[Class, str]:
    """Return the first class that matches, and the facts that decided it, in words."""
    ended, verdict = trial.exit, trial.verdict
    looping = ended in LIMITS | {Exit.CONTEXT_OVERFLOW} and repeats(trial.last_actions)
    server = ended in {Exit.SERVER_FAILED, Exit.REQUEST_FAILED}
    recurs = ended is Exit.REQUEST_FAILED or trial.server_failures >= ATTEMPTS_MAX
    foreign = bool(trial.gold_files) and not trial.patched_files & trial.gold_files
    table: list[tuple[bool, Class, str]] = [
        (trial.instance_invalid, Class.I0, "the gold patch does not resolve on this host"),
        (ended is Exit.SANDBOX_FAILED, Class.I1, f"exit {ended}"),
        (
            server and recurs and trial.other_arm_completed,
            Class.A12,
            f"exit {ended}, {trial.server_failures} times, while another arm completed it",
        ),
        (server, Class.I2, f"exit {ended}"),
        (verdict is Verdict.GRADING_FAILED, Class.I3, f"verdict {verdict}"),
        (
            ended is Exit.KVCI_FAILED or verdict is Verdict.NOT_GRADED,
            Class.I4,
            f"exit {ended}, verdict {verdict}",
        ),
        (verdict is Verdict.RESOLVED, Class.OK, f"verdict {verdict}"),
        (ended is Exit.ANSWER_LIMIT, Class.A1, f"exit {ended}"),
        (ended is Exit.LOOP, Class.A2, f"exit {ended}"),
        (looping, Class.A2, f"exit {ended}, and the last actions repeat"),
        (ended is Exit.CONTEXT_OVERFLOW, Class.A3, f"exit {ended}"),
        (ended in LIMITS, Class.A4, f"exit {ended}"),
        (ended is Exit.FORMAT_ERRORS, Class.A5, f"exit {ended}"),
        (verdict is Verdict.EMPTY_PATCH, Class.A6, f"exit {ended}, verdict {verdict}"),
        (verdict is Verdict.APPLY_FAILED, Class.A7, f"verdict {verdict}"),
        (verdict is Verdict.SYNTAX_ERROR, Class.A8, f"verdict {verdict}"),
        (foreign, Class.A9, "no file in common with the gold patch"),
        (verdict is Verdict.TEST_TIMEOUT, Class.A10, f"verdict {verdict}"),
        (verdict is Verdict.TESTS_FAIL, Class.A11A, f"verdict {verdict}"),
        (verdict is Verdict.TESTS_BROKEN, Class.A11B, f"verdict {verdict}"),
    ]
    for matches, found, why in table:
        if matches:
            return found, why
    raise AssertionError(f"no class for exit {ended}, verdict {verdict}")
