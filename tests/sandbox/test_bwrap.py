"""What only bubblewrap has: its check, its groups, what a killed kvci left."""

import os
import subprocess

import pytest

from kvci.errors import UserError
from kvci.sandbox import bwrap
from kvci.sandbox.capped import HeadAndTail
from kvci.sandbox.cgroup import ROOT, Cgroup, sweep


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


def test_head_and_tail() -> None:
    kept = HeadAndTail(10)
    for part in (b"abc", b"defghij", b"klmno"):
        kept.add(part)
    assert kept.bytes() == b"abcde\n[5 bytes left out]\nklmno"
    whole = HeadAndTail(10)
    whole.add(b"0123456789")
    assert whole.bytes() == b"0123456789"
