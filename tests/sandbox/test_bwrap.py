"""What only bubblewrap has: its check, its groups, what a killed kvci left."""

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kvci.errors import UserError
from kvci.sandbox import DiffFailed, Limits, SandboxFailed, bwrap
from kvci.sandbox.capped import HeadAndTail
from kvci.sandbox.cgroup import ROOT, Cgroup, sweep

ORDINARY = 12345
"""A user id that nobody has."""


def test_without_a_sandbox_kvci_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UserError, match=r"install bubblewrap .* or Docker"):
        bwrap.program()
    monkeypatch.undo()
    monkeypatch.setattr(Cgroup, "create", lambda *_: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(UserError, match="does not bind root"):
        bwrap.check()


def test_the_check_binds_what_a_sandbox_binds_and_not_docker_s_mounts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A container's mount that went away while bwrap bound / made the check fail, 1 time in 40."""
    spy, seen = tmp_path / "bwrap", tmp_path / "seen"
    spy.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {seen}\nexec {bwrap.program()} "$@"\n')
    spy.chmod(0o755)
    monkeypatch.setattr(bwrap, "program", lambda: str(spy))
    bwrap.check()
    words = seen.read_text().splitlines()
    assert "/usr" in words and "/" not in words


def test_what_a_killed_kvci_left_in_its_group_is_ended() -> None:
    """A sandbox whose maker died while it was being made is no one's child."""
    maker = subprocess.Popen(["true"])
    maker.wait()
    folders = [ROOT / kind / f"kvci-{maker.pid}-left" for kind in ("memory", "pids")]
    left = subprocess.Popen(["sleep", "60"])
    try:
        for folder in folders:
            folder.mkdir()
            (folder / "cgroup.procs").write_text(str(left.pid))
    except OSError:
        left.kill()
        pytest.skip("no writable cgroup v1")
    sweep()
    assert left.wait(5) == -9
    assert not [folder for folder in folders if folder.exists()]


def test_a_disk_that_others_filled_is_infrastructure(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was taken for the model's doing: a command that ended, an empty patch."""
    box = bwrap.Bwrap({"a.py": "x = 1\n"})
    try:
        monkeypatch.setattr(bwrap, "DISK_RESERVE_BYTES", 1 << 60)
        began = time.monotonic()
        for ask in (lambda: box.run("sleep 20", Limits()), box.diff):
            with pytest.raises(SandboxFailed, match="not by this trial"):
                ask()
        assert time.monotonic() - began < 10
    finally:
        box.close()


def test_a_trial_that_filled_the_disk_loses_its_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    box = bwrap.Bwrap({"a.py": "x = 1\n"})
    try:
        monkeypatch.setattr(bwrap, "HOG_BYTES", 1 << 20)
        monkeypatch.setattr(bwrap, "DISK_RESERVE_BYTES", 1 << 60)
        hog = "mkdir d; head -c 2M /dev/zero > d/file; chmod 0 d; sleep 20"
        done = box.run(hog, Limits())
        assert done.code == 137 and not done.timed_out and done.wall_s < 10
        monkeypatch.undo()
        assert not box._tree.exists() and box.run("echo here", Limits()).code == 137
        with pytest.raises(DiffFailed):
            box.diff()
    finally:
        box.close()


def test_room_is_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    is_full = iter([True, False])
    monkeypatch.setattr(bwrap, "full", lambda _: next(is_full, True))
    bwrap.wait(tmp_path, 30)
    with pytest.raises(UserError, match="make room there, then run the same command"):
        bwrap.wait(tmp_path, 0)


def test_as_an_ordinary_user_the_same_is_contained(tmp_path: Path) -> None:
    """The hostile commands once more, without a cgroup that could hold them."""
    if os.geteuid() != 0:
        pytest.skip("all tests run as an ordinary user here")
    python = shutil.which(f"python3.{sys.version_info.minor}", path="/usr/bin") or sys.executable
    paths = [str(Path(pytest.__file__).parents[1]), str(Path(__file__).parents[2])]
    words = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "bwrap"]
    words += [f"--basetemp={tmp_path / 'user'}", str(Path(__file__).with_name("test_hostile.py"))]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(paths), "HOME": str(tmp_path)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    os.chown(tmp_path, ORDINARY, ORDINARY)

    def run(*command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command, user=ORDINARY, group=ORDINARY, extra_groups=[], env=environment,
            cwd=paths[1], capture_output=True, text=True, timeout=200,
        )  # fmt: skip

    if run(python, "-c", "import kvci, pytest, pydantic_core, tests.conftest").returncode:
        pytest.skip("no Python with kvci's packages that an ordinary user can read")
    done = run(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def test_head_and_tail() -> None:
    kept = HeadAndTail(10)
    for part in (b"abc", b"defghij", b"klmno"):
        kept.add(part)
    assert kept.bytes() == b"abcde\n[5 bytes left out]\nklmno"
    whole = HeadAndTail(10)
    whole.add(b"0123456789")
    assert whole.bytes() == b"0123456789"


def test_a_group_that_cannot_be_made_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd mounts the folder above version 1's controllers read-only."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    slept: list[float] = []
    monkeypatch.setattr("kvci.sandbox.cgroup.time.sleep", slept.append)
    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(Path, "rmdir", refuse)
    assert Cgroup.create(64, 8) is None and not slept


def test_git_says_nothing_of_a_tree_that_a_stop_takes_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bwrap, "GIT_ENVIRONMENT", bwrap.GIT_ENVIRONMENT | {"GIT_DIR": "/proc/x"})
    with pytest.raises(subprocess.CalledProcessError):
        bwrap.Bwrap({"a.py": "x = 1\n"}, tmp_path)
    assert capfd.readouterr() == ("", "")
