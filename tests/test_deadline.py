"""Work on input that anyone can send ends in time."""

import re
import signal
import threading
import time

import pytest

from kvci.deadline import time_limit

SLOW = UserWarning("too slow")


def search() -> None:
    """Search with an expression that needs years."""
    re.search(r"(\w+)+!", "a" * 60)


def test_search_ends_in_time() -> None:
    handler, (left_s, _) = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    started = time.monotonic()
    with pytest.raises(UserWarning, match="too slow"), time_limit(0.3, SLOW):
        search()
    assert time.monotonic() - started < 5
    assert signal.getsignal(signal.SIGALRM) is handler  # that of pytest's own limit
    assert left_s - 5 < signal.getitimer(signal.ITIMER_REAL)[0] <= left_s


def test_no_handler_catches_the_end() -> None:
    def stubborn() -> None:
        try:
            search()
        except Exception:
            pytest.fail("the end was caught")

    with pytest.raises(UserWarning), time_limit(0.3, SLOW):
        stubborn()


@pytest.mark.parametrize(("inner_s", "outer_s", "ends"), [(0.3, 60, "inner"), (60, 0.3, "outer")])
def test_nested_limits_keep_their_own_times(inner_s: float, outer_s: float, ends: str) -> None:
    with (
        pytest.raises(ValueError, match=ends),
        time_limit(outer_s, ValueError("outer")),
        time_limit(inner_s, ValueError("inner")),
    ):
        search()


def test_many_inner_limits_cannot_extend_the_outer() -> None:
    started = time.monotonic()
    with pytest.raises(ValueError, match="outer"), time_limit(1, ValueError("outer")):
        for _ in range(100):
            with pytest.raises(ValueError, match="inner"), time_limit(0.3, ValueError("inner")):
                search()
    assert time.monotonic() - started < 10


def test_work_in_time_is_not_disturbed() -> None:
    with time_limit(0.5, SLOW):
        pass
    time.sleep(0.7)


def test_thread_has_no_limit() -> None:
    ended = []

    def work() -> None:
        with time_limit(0.01, SLOW):
            time.sleep(0.1)
        ended.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended
