"""Hostile commands, each contained. They run in the real sandbox."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from kvci.errors import UserError
from kvci.sandbox import Limits, bwrap
from kvci.sandbox.bwrap import Bwrap
from kvci.sandbox.capped import HeadAndTail
from kvci.sandbox.cgroup import ROOT, Cgroup, sweep

SHORT = Limits(wall_s=5)
FILES = {"a.py": "x = 1\n", "package/b.py": "y = 2\n", "tests/test_a.py": "pass\n"}


@pytest.fixture
def box() -> Iterator[Bwrap]:
    bwrap.check()
    made = Bwrap(FILES)
    yield made
    made.close()
    assert not made._folder.exists()


def test_a_command_runs_in_a_fresh_subshell_in_the_tree(box: Bwrap) -> None:
    assert (
        box.run("export X=1; cd package; pwd; cat b.py", SHORT).output
        == b"/testbed/package\ny = 2\n"
    )
    done = box.run("echo [$X]; pwd; exit 3", SHORT)
    assert (done.output, done.code) == (b"[]\n/testbed\n", 3)
    assert box.run("python3 -c 'print(1)'", SHORT).output == b"1\n"


def test_the_fork_bomb_ends_with_the_command(box: Bwrap) -> None:
    before = len(psutil.pids())
    started = time.monotonic()
    box.run("bomb() { bomb | bomb & }; bomb; sleep 60", Limits(wall_s=2, processes=64))
    assert time.monotonic() - started < 10
    assert len(psutil.pids()) < before + 50
    assert box.run("echo fine", SHORT).output == b"fine\n"


def test_endless_output_is_cut_and_stopped(box: Bwrap) -> None:
    done = box.run("cat /dev/zero", Limits(wall_s=30, output_mib=8, kept_bytes=1000))
    assert not done.timed_out and done.code != 0
    assert 8 << 20 < done.output_bytes < 9 << 20
    assert len(done.output) < 1100


def test_a_file_cannot_grow_without_end(box: Bwrap) -> None:
    done = box.run("head -c 10G /dev/zero > big; stat -c %s big", Limits(wall_s=20, file_mib=4))
    assert done.output.splitlines()[-1] == str(4 << 20).encode()


def test_memory_is_bounded(box: Bwrap) -> None:
    done = box.run("python3 -c 'x = bytearray(1 << 30)'", Limits(wall_s=20, memory_mib=200))
    assert done.code != 0


def test_nothing_goes_on_in_the_background(box: Bwrap) -> None:
    started = time.monotonic()
    box.run("sleep 98765 & setsid sleep 98765 & echo started", SHORT)
    assert time.monotonic() - started < 4
    commands = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if command == "sleep 98765"]


def test_the_wall_limit_ends_everything(box: Bwrap) -> None:
    done = box.run("trap '' TERM INT; sleep 60", Limits(wall_s=0.5))
    assert done.timed_out and done.wall_s < 5


@pytest.mark.parametrize(
    "command",
    [
        "echo x > /etc/passwd",
        "echo x > /usr/x",
        "ls /home",
        "ls /sys/fs/cgroup",
        f"cat {Path.home() / '.bashrc'}",
        "python3 -c 'import socket; socket.create_connection((\"1.1.1.1\", 53), 2)'",
        "test -e /var/run/docker.sock",
        "cat /etc/shadow",
        "kill -9 $PPID; test -d /proc/2000",
    ],
)
def test_the_host_is_out_of_reach(box: Bwrap, command: str) -> None:
    assert box.run(command, SHORT).code != 0


def test_the_environment_of_the_host_stays_outside(
    box: Bwrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVCI_SECRET", "token")
    assert b"token" not in box.run("env; cat /proc/self/environ /proc/1/environ", SHORT).output


def test_diff_is_text_changes_without_products_and_tests(box: Bwrap) -> None:
    box.run(
        "sed -i s/1/3/ a.py; echo new > 'n w.py'; rm package/b.py; echo t >> tests/test_a.py;"
        "mkdir -p package/__pycache__ build; touch package/__pycache__/x.pyc; echo b > build/b.py;"
        "printf '\\0\\1' > binary.bin; git add -A; git commit -qm mine",
        SHORT,
    )
    patch = box.diff(exclude=("tests/test_a.py",)).decode()
    assert "-x = 1\n+x = 3\n" in patch and "n w.py" in patch and "-y = 2" in patch
    for absent in ("tests/", "pycache", "build", "binary"):
        assert absent not in patch


def test_an_untouched_tree_has_no_diff(box: Bwrap) -> None:
    assert box.diff() == b""


def test_hostile_git_settings_do_nothing(box: Bwrap) -> None:
    box.run(
        "echo '* filter=evil diff=evil' > .gitattributes;"
        "git config filter.evil.clean 'touch /tmp/ran; cat';"
        "git config core.fsmonitor 'touch /tmp/ran';"
        "git config diff.evil.command 'touch /tmp/ran'; git config core.hooksPath /testbed;"
        "git config diff.external 'touch /tmp/ran'; sed -i s/1/3/ a.py; rm -f /tmp/ran",
        SHORT,
    )
    patch = box.diff()
    assert b"+x = 3" in patch
    assert box.run("test -e /tmp/ran", SHORT).code == 1


def test_a_symlink_out_of_the_tree_is_only_a_link(box: Bwrap) -> None:
    box.run("ln -s /etc/passwd link; rm a.py; ln -s /etc/passwd a.py", SHORT)
    patch = box.diff()
    assert b"root:" not in patch and b"+/etc/passwd" in patch


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
