"""Steps check, act only if necessary, and check again."""

from collections.abc import Callable
from pathlib import Path

import pytest
import steps
from steps import Failed, Step, apply


def test_done_step_is_not_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "folder" / "file"
    apply([steps.file(place, "x\n", 0o600)], dry_run=False)
    assert (place.read_text(), place.stat().st_mode & 0o777) == ("x\n", 0o600)
    before = place.stat()
    apply([steps.file(place, "x\n", 0o600)], dry_run=False)
    assert place.stat() == before
    words = capsys.readouterr().out.split()
    assert words == ["done", str(place), "ok", str(place)]
    place.chmod(0o644)
    apply([steps.file(place, "x\n", 0o600)], dry_run=False)
    assert place.stat().st_mode & 0o777 == 0o600


def test_dry_run_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    apply([steps.file(tmp_path / "file", "x\n")], dry_run=True)
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().out == f"would do   {tmp_path / 'file'}: 1 lines\n"


def does_nothing() -> None:
    """Do nothing, as a step that does not work."""


def fails() -> None:
    raise Failed("no; do that.")


@pytest.mark.parametrize(
    ("do", "message"),
    [(does_nothing, "the step ran, but its check still fails"), (fails, "no; do that.")],
)
def test_failed_step_is_reported_and_stops(
    do: Callable[[], None], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        apply([Step("it", lambda: False, do), steps.file(tmp_path / "x", "")], dry_run=False)
    assert ended.value.code == 1 and message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_failed_command_shows_its_output() -> None:
    assert steps.run("echo", "x") == "x\n"
    with pytest.raises(Failed, match="exited with 3:\nwhy"):
        steps.run("sh", "-c", "echo why >&2; exit 3")
    with pytest.raises(Failed, match="install it"):
        steps.run("no-such-command")
    with pytest.raises(Failed, match="sleep 60 did not end"):
        steps.run("sleep", "60", limit_s=0.1)


def test_dry_run_without_permission_shows_plan(capsys: pytest.CaptureFixture[str]) -> None:
    def look() -> bool:
        raise PermissionError("/etc/kvci/token")

    apply([Step("the token", look, lambda: None, "nothing")], dry_run=True)
    assert capsys.readouterr().out == "would do   the token: nothing\n"
