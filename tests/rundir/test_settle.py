"""Test class A12. Only all arms together can show this class."""

from kvci.rundir.documents import Outcome
from kvci.rundir.settle import settle
from kvci.taxonomy import Class, Exit, Verdict
from tests.run.made import outcome


def failed(arm: str, times: int = 3) -> Outcome:
    return outcome(
        arm,
        "a",
        exit=Exit.SERVER_FAILED,
        verdict=Verdict.NOT_GRADED,
        cls=Class.I2,
        attempts=3,
        server_failures=times,
    )


def test_server_failing_in_one_arm_is_a12() -> None:
    settled = settle([failed("q8_0-q8_0"), outcome("f16-f16", "a")])
    assert [o.cls for o in settled] == [Class.A12, Class.OK]
    assert "another arm completed it" in settled[0].why


def test_server_failing_in_all_arms_stays_i2() -> None:
    both = [failed("q8_0-q8_0"), failed("f16-f16")]
    assert [o.cls for o in settle(both)] == [Class.I2, Class.I2]
    other = [failed("q8_0-q8_0"), outcome("f16-f16", "b"), outcome("q8_0-q8_0", "b")]
    assert settle(other)[0].cls is Class.I2


def test_server_failing_twice_stays_i2() -> None:
    assert settle([failed("q8_0-q8_0", times=2), outcome("f16-f16", "a")])[0].cls is Class.I2


def test_request_failing_on_healthy_server_is_a12() -> None:
    request = failed("q8_0-q8_0", times=0).model_copy(update={"exit": Exit.REQUEST_FAILED})
    assert settle([request, outcome("f16-f16", "a")])[0].cls is Class.A12
