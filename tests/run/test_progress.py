"""Test the progress lines of a run."""

import io

from kvci.console import Terminal
from kvci.run import progress
from kvci.run.progress import Progress, _duration
from kvci.taxonomy import Class, Verdict
from tests.run.made import outcome

ARMS = ("f16-f16", "q8_0-q8_0")


def test_log_gets_one_line_now_and_then() -> None:
    out = io.StringIO()
    with Progress(
        Terminal(file=out, width=200), dict.fromkeys(ARMS, 2), 4, [outcome(ARMS[0], "a")]
    ) as shown:
        shown.slot(+1)
        shown.outcome(outcome(ARMS[0], "b", cls=Class.A6, verdict=Verdict.EMPTY_PATCH))
        assert out.getvalue() == ""  # it is too soon for a line
        shown.outcome(outcome(ARMS[1], "a"))
        shown.outcome(outcome(ARMS[1], "b"))
    (line,) = out.getvalue().splitlines()
    assert "4/4 trials done: f16-f16 2/2 (1 resolved), q8_0-q8_0 2/2 (2 resolved)" in line
    assert "1 of 4 slots busy" in line and "about 0 s left" in line


def test_terminal_gets_live_view() -> None:
    out = io.StringIO()
    console = Terminal(file=out, force_terminal=True, width=100)
    with Progress(console, dict.fromkeys(ARMS, 3), 4) as shown:
        shown.tokens(500)
        shown.outcome(outcome(ARMS[0], "a"))
        shown.outcome(outcome(ARMS[1], "a", cls=Class.I1))
    text = out.getvalue()
    assert "Resolved so far" in text and "interim, no claim" in text
    assert "500 tokens/s" in text and "1/3" in text


def test_speed_is_that_of_the_last_minute() -> None:
    shown = Progress(Terminal(file=io.StringIO()), dict.fromkeys(ARMS, 3), 4)
    shown._tokens.append((shown._started - progress.WINDOW_S - 1, 10_000))
    assert "0 tokens/s" in shown.line()


def test_duration() -> None:
    assert [_duration(s) for s in (12, 90, 4000)] == ["12 s", "2 min", "1 h 7 min"]
