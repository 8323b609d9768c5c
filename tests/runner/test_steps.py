"""Steps look first, act only then, and look again."""

from collections.abc import Callable
from pathlib import Path

import pytest
import steps
from steps import Failed, Step, take


def test_a_step_that_is_done_is_not_done_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "folder" / "file"
    take([steps.file(place, "x\n", 0o600)], dry_run=False)
    assert (place.read_text(), place.stat().st_mode & 0o777) == ("x\n", 0o600)
    before = place.stat()
    take([steps.file(place, "x\n", 0o600)], dry_run=False)
    assert place.stat() == before
    said = capsys.readouterr().out.split()
    assert said == ["done", str(place), "is", "so", str(place)]
    place.chmod(0o644)
    take([steps.file(place, "x\n", 0o600)], dry_run=False)
    assert place.stat().st_mode & 0o777 == 0o600


def test_a_dry_run_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    take([steps.file(tmp_path / "file", "x\n")], dry_run=True)
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().out == f"would do   {tmp_path / 'file'}: 1 lines\n"


def lies() -> None:
    """Says nothing and does nothing."""


def fails() -> None:
    raise Failed("no; do that.")


@pytest.mark.parametrize(("do", "says"), [(lies, "and yet it is not so"), (fails, "no; do that.")])
def test_what_fails_is_said_and_nothing_follows(
    do: Callable[[], None], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        take([Step("it", lambda: False, do), steps.file(tmp_path / "x", "")], dry_run=False)
    assert ended.value.code == 1 and says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_command_says_what_it_said() -> None:
    assert steps.run("echo", "x") == "x\n"
    with pytest.raises(Failed, match="ended with 3:\nwhy"):
        steps.run("sh", "-c", "echo why >&2; exit 3")
    with pytest.raises(Failed, match="install it"):
        steps.run("no-such-command")


def test_who_may_not_look_is_told_what_would_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    def look() -> bool:
        raise PermissionError("/etc/kvci/token")

    take([Step("the token", look, lambda: None, "nothing")], dry_run=True)
    assert capsys.readouterr().out == "would do   the token: nothing\n"
