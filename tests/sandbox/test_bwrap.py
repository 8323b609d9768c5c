"""Tests of bubblewrap only: the check, cgroups, processes of a killed kvci, a full disk."""

import contextlib
import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from kvci import patience
from kvci.errors import UserError
from kvci.sandbox import Caps, DiffFailed, Limits, SandboxFailed, bwrap, launch
from kvci.sandbox.capped import HeadAndTail
from kvci.sandbox.cgroup import INNER, OWN_GROUP, ROOT, Cgroup, _limit_subgroups, _parent_v2, sweep
from kvci.sandbox.host_user import HostUser


@pytest.fixture
def again() -> Iterator[None]:
    """kvci chooses its bwrap again, before and after the test."""
    launch.program.cache_clear()
    yield
    launch.program.cache_clear()


def test_missing_bwrap_or_cgroup_is_refused(monkeypatch: pytest.MonkeyPatch, again: None) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UserError, match=r"install bubblewrap .* or Docker"):
        launch.program()
    monkeypatch.undo()
    monkeypatch.setattr(Cgroup, "create", lambda *_: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(UserError, match="do not bind root"):
        bwrap.check()


def test_broken_bwrap_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, again: None, tmp_path: Path
) -> None:
    """The system's bwrap may be too old."""
    old = tmp_path / "bwrap"
    old.write_text("#!/bin/sh\necho bwrap: Unknown option --json-status-fd; exit 1\n")
    for path in (old, *list(tmp_path.parents)[:3], tmp_path):
        path.chmod(path.stat().st_mode | 0o055)
    found = launch.programs()
    monkeypatch.setattr(launch, "programs", lambda: [old, *found])
    assert launch.program() in found
    launch.program.cache_clear()
    monkeypatch.setattr(launch, "programs", lambda: [old])
    with pytest.raises(UserError, match=r"cannot make a sandbox here .*Unknown option"):
        launch.program()


def test_sandbox_binds_only_programs() -> None:
    """Earlier, a check bound /. It failed 1 time in 40, because a container's mount vanished."""
    pairs = list(pairwise(launch._words([])))
    assert ("--ro-bind", "/usr") in pairs and ("--ro-bind", "/") not in pairs


def test_only_programs_of_pythons_prefix_are_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prefix may be a home folder, or ~/.local."""
    for name in ("bin", "lib", "share"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    assert launch._python() == [tmp_path / "bin", tmp_path / "lib"]
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    assert launch._python() == []


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_sweep_ends_processes_of_killed_kvci(version: str) -> None:
    """bwrap does not end with a kvci that dies while bwrap sets up the sandbox."""
    killed = subprocess.Popen(["true"])
    killed.wait()
    parents = {"v1": [ROOT / "memory", ROOT / "pids"], "v2": [_parent_v2()]}[version]
    folders = [parent / f"kvci-{killed.pid}-left" for parent in parents]
    if not all((folder.parent / "cgroup.procs").exists() for folder in folders):
        pytest.skip(f"no cgroup {version}")
    left = subprocess.Popen(["sleep", "60"])
    try:
        for folder in folders:
            inner = folder if version == "v1" else folder / INNER
            inner.mkdir(parents=True)
            (inner / "cgroup.procs").write_text(str(left.pid))
    except OSError:
        left.kill()
        pytest.skip(f"no writable cgroup {version}")
    sweep()
    assert left.wait(5) == -9
    assert not [folder for folder in folders if folder.exists()]


def test_controllers_stay_while_sandbox_has_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier, systemd took the CPU controller from a run of root when the last user logged out."""
    parent = ROOT / "kvci-test-taken"
    control = parent / "cgroup.subtree_control"
    try:
        _limit_subgroups(ROOT)
        parent.mkdir()
    except OSError:
        pytest.skip("no writable cgroup v2")
    monkeypatch.setattr("kvci.sandbox.cgroup._own_v2", lambda: parent)
    try:
        if not _limit_subgroups(parent):
            pytest.skip("no writable cgroup v2")
        group = Cgroup.create(Caps())
        assert group and group._folders[0].parent == parent
        with pytest.raises(OSError):
            control.write_text("-cpu")
        assert (group._folders[0] / "cpu.max").exists()
        group.remove()
        control.write_text("-cpu")
        again = Cgroup.create(Caps())
        assert again and again.kind == "cgroup v2"
        again.remove()
    finally:
        for folder in (*parent.glob("*/*/"), *parent.glob("*/"), parent):
            folder.rmdir()


def test_swap_is_not_beyond_limit_of_memory() -> None:
    """Earlier, a command got memory above its limit from the host's swap."""
    group = Cgroup.create(Caps(memory_mib=200))
    if group is None:
        pytest.skip("no writable cgroup")
    try:
        files = {"memory.swap.max": "0", "memory.memsw.limit_in_bytes": str(200 << 20)}
        limits = {group._folders[0] / file: limit for file, limit in files.items()}
        found = {file.read_text().strip(): limit for file, limit in limits.items() if file.exists()}
        if not found:
            pytest.skip("this kernel does not count swap")
        assert all(value == limit for value, limit in found.items())
    finally:
        group.remove()


def test_disk_filled_by_others_is_infrastructure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier, this counted as the model's failure: a killed command and an empty patch."""
    box = bwrap.Bwrap({"a.py": "x = 1\n"})
    try:
        monkeypatch.setattr(bwrap, "disk_full", lambda _: True)
        start = time.monotonic()
        for use in (lambda: box.run("sleep 20", Limits()), box.diff):
            with pytest.raises(SandboxFailed, match="this trial did not fill it"):
                use()
        assert time.monotonic() - start < 10
    finally:
        box.close()


def test_trial_that_filled_disk_loses_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    box = bwrap.Bwrap({"a.py": "x = 1\n"})
    try:
        monkeypatch.setattr(bwrap, "LARGE_WRITE_BYTES", 1 << 20)
        monkeypatch.setattr(bwrap, "disk_full", lambda _: True)
        fill = "mkdir d; head -c 2M /dev/zero > d/file; chmod 0 d; sleep 20"
        done = box.run(fill, Limits())
        assert done.code == 137 and not done.timed_out and done.wall_s < 10
        monkeypatch.undo()
        assert not box._tree.exists() and box.run("echo here", Limits()).code == 137
        with pytest.raises(DiffFailed):
            box.diff()
    finally:
        box.close()


def test_wait_returns_when_disk_has_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    is_disk_full = iter([True, False])
    monkeypatch.setattr(bwrap, "disk_full", lambda _: next(is_disk_full, True))
    patience.wait(lambda: bwrap.problem(tmp_path), 30)
    with pytest.raises(
        UserError, match="is full; free some space there, then run the same command"
    ):
        patience.wait(lambda: bwrap.problem(tmp_path), 0)


def test_hostile_commands_are_contained_for_ordinary_user(tmp_path: Path) -> None:
    """Run the hostile commands again as a user who cannot write a cgroup."""
    if os.geteuid() != 0:
        pytest.skip("all tests run as an ordinary user here")
    user, root = HostUser(), Path(__file__).parents[2]
    sources = [Path(sys.base_prefix), Path(sys.prefix), root, tmp_path]
    user.give(tmp_path)
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "bwrap"]
    words += [f"--basetemp={tmp_path / 'user'}", "tests/sandbox/test_hostile.py"]
    words += ["tests/sandbox/test_reach.py"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(
        words, preexec_fn=lambda: user.become(sources), env=environment,
        cwd=root, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def test_head_and_tail_of_output_are_kept() -> None:
    kept = HeadAndTail(10)
    for part in (b"abc", b"defghij", b"klmno"):
        kept.add(part)
    assert kept.bytes() == b"abcde\n[5 bytes left out]\nklmno"
    whole = HeadAndTail(10)
    whole.add(b"0123456789")
    assert whole.bytes() == b"0123456789"


def test_impossible_cgroup_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd mounts the parent folder of the v1 controllers read-only."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    slept: list[float] = []
    monkeypatch.setattr("kvci.sandbox.cgroup.time.sleep", slept.append)
    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(Path, "rmdir", refuse)
    assert Cgroup.create(Caps()) is None and not slept


def test_git_is_silent_when_stop_removes_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bwrap, "GIT_ENVIRONMENT", bwrap.GIT_ENVIRONMENT | {"GIT_DIR": "/proc/x"})
    with pytest.raises(subprocess.CalledProcessError):
        bwrap.Bwrap({"a.py": "x = 1\n"}, tmp_path)
    assert capfd.readouterr() == ("", "")


def test_disk_without_inodes_is_full(tmp_path: Path) -> None:
    """Earlier, only bytes counted: a trial that made many files ended the run."""
    words = ["mount", "-t", "tmpfs", "-o", "size=3g,nr_inodes=50000", "none", str(tmp_path)]
    if subprocess.run(words, capture_output=True).returncode:
        pytest.skip("only root can make a small disk")
    try:
        tmp_path.chmod(0o755)
        box = bwrap.Bwrap({"a.py": "x = 1\n"}, tmp_path)
        make = "import os\nfor n in range(60000): os.mknod(str(n))"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bwrap, "LARGE_WRITE_FILES", 30_000)
            done = box.run(f'mkdir many; cd many; python3 -c "{make}"; sleep 20', Limits())
        assert done.code == 137 and done.wall_s < 15
        assert not bwrap.disk_full(tmp_path) and box.run("true", Limits()).code == 137
        with pytest.raises(DiffFailed):
            box.diff()
        box.close()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


DELEGATED = """
import os, subprocess, sys
from pathlib import Path
from kvci.sandbox import cgroup
cgroup.ROOT, cgroup.CONTROLLERS = Path(sys.argv[1]), (sys.argv[2],)
beside = subprocess.Popen(["bash", "-c", "while :; do (:); done"])
parent = cgroup._parent_v2()
beside.kill()
(parent / "kvci-1-x").mkdir()
print(parent.name, cgroup._own_v2().relative_to(parent), (parent / "cgroup.procs").read_text())
print(sorted(path.name for path in (parent / "kvci-1-x").glob(f"{sys.argv[2]}.*"))[0])
(parent / "kvci-1-x").rmdir()
"""


def test_sandboxes_get_groups_in_delegated_group(tmp_path: Path) -> None:
    """A v2 group whose subgroups have limits must not have processes of its own.

    Earlier, kvci ran without a cgroup if a process beside it started another one in this moment.
    """
    mounted = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    roots = [Path(words[1]) for words in mounted if words[2] == "cgroup2"]
    names = (roots[0] / "cgroup.controllers").read_text().split() if roots else []
    if os.geteuid() != 0 or not names or not os.access(roots[0], os.W_OK):
        pytest.skip("no cgroup v2 that can be delegated")
    root, name, user = roots[0], names[0], HostUser()
    control = root / "cgroup.subtree_control"
    was_on = name in control.read_text().split()
    control.write_text(f"+{name}")
    group = root / "kvci-test-delegated"
    group.mkdir()
    try:
        for path in (group, group / "cgroup.procs", group / "cgroup.subtree_control"):
            os.chown(path, user.id, user.id)
        sources = [Path(sys.base_prefix), Path(sys.prefix), Path(__file__).parents[2]]

        def enter() -> None:
            (group / "cgroup.procs").write_text(str(os.getpid()))
            user.become(sources)

        done = subprocess.run(
            [sys.executable, "-c", DELEGATED, str(root), name], preexec_fn=enter,
            cwd=sources[-1], capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        place, own, *processes, file = done.stdout.split()
        assert (place, own, processes) == (group.name, OWN_GROUP, [])
        assert file.startswith(f"{name}.")
    finally:
        for folder in (group / OWN_GROUP, group):
            for _ in range(50):
                with contextlib.suppress(OSError):
                    folder.rmdir()
                    break
                time.sleep(0.1)
        if not was_on:
            control.write_text(f"-{name}")
