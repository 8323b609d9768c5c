"""Runs hostile commands in both real sandboxes. The sandboxes must contain every command."""

import json
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import psutil
import pytest

import kvci
from kvci.sandbox import Caps, DiffFailed, Limits, Sandbox, bwrap
from kvci.sandbox.bwrap import Bwrap
from kvci.sandbox.container import Docker
from tests.made_images import calibration_image
from tests.sandbox.conftest import CAPS, FILES, made

SHORT = Limits(wall_s=5)
LONG = Limits(wall_s=30)


def test_command_runs_in_fresh_subshell_in_tree(box: Sandbox) -> None:
    assert (
        box.run("export X=1; cd package; pwd; cat b.py", SHORT).output
        == b"/testbed/package\ny = 2\n"
    )
    done = box.run("echo [$X]; pwd; exit 3", SHORT)
    assert (done.output, done.code) == (b"[]\n/testbed\n", 3)
    assert box.run("python3 -c 'print(1)'", SHORT).output == b"1\n"


def test_output_keeps_its_order(box: Sandbox) -> None:
    """Earlier, two pipes were read separately, and log lines were on the wrong side of markers."""
    done = box.run("for i in {1..500}; do echo $i; echo $i >&2; done", SHORT)
    assert done.output.split() == [str(i).encode() for i in range(1, 501) for _ in range(2)]
    for _ in range(20):
        assert box.run("echo 1; echo 2 >&2; echo 3; echo 4 >&2", SHORT).output == b"1\n2\n3\n4\n"


def test_fork_bomb_ends_with_command(box: Sandbox) -> None:
    before = len(psutil.pids())
    started = time.monotonic()
    box.run("bomb() { bomb | bomb & }; bomb; sleep 60", Limits(wall_s=2))
    assert time.monotonic() - started < 15
    while len(psutil.pids()) >= before + 20:  # the kernel removes the processes one by one
        assert time.monotonic() - started < 30
        time.sleep(0.1)
    assert box.run("echo fine", SHORT).output == b"fine\n"


def test_tree_too_deep_for_python_is_removed(box: Sandbox) -> None:
    """Earlier, this counted as a fault of kvci, and the run could not be resumed."""
    nest = "import os\nfor _ in range(1500): os.mkdir('d'); os.chdir('d')"
    assert box.run(f'python3 -c "{nest}"', LONG).code == 0
    box.run("chmod -R a-w .; chmod 0 d", SHORT)


@pytest.mark.parametrize("command", ["echo a\0b", "echo \ud83d", "echo " + "x" * (128 << 10)])
def test_impossible_command_line_is_a_failed_command(box: Sandbox, command: str) -> None:
    assert box.run(command, SHORT).code == 126
    assert box.run(f"echo {'x' * 100_000}", SHORT).code == 0


def test_root_folder_is_read_only(box: Sandbox) -> None:
    """bwrap keeps / in memory, where no limit of the sandbox applies."""
    if isinstance(box, Bwrap):
        assert b"Read-only file system" in box.run("echo x > /foo", SHORT).output


def test_kvci_is_not_visible_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """kvci's source names the bugs of the calibration suite."""
    place = Path(json.__file__).parent  # a folder that every Python has
    monkeypatch.setattr(kvci, "__file__", str(place / "kvci" / "__init__.py"))
    box = Bwrap(FILES, caps=CAPS)
    try:
        assert box.run(f"ls {place}", SHORT).output == b""
    finally:
        box.close()


def test_endless_output_is_stopped_and_cut(box: Sandbox) -> None:
    done = box.run("cat /dev/zero", Limits(wall_s=30, output_mib=8, kept_bytes=1000))
    assert not done.timed_out and done.code != 0
    assert 8 << 20 < done.output_bytes < 9 << 20
    assert len(done.output) < 1100


def test_file_size_is_limited(box: Sandbox) -> None:
    done = box.run("head -c 10G /dev/zero > big; stat -c %s big", Limits(wall_s=20, file_mib=4))
    assert done.output.splitlines()[-1] == str(4 << 20).encode()


def test_memory_is_limited(box: Sandbox) -> None:
    done = box.run("python3 -c 'x = bytearray(1 << 30)'", Limits(wall_s=20))
    assert done.code != 0


def test_memory_of_all_processes_is_limited(box: Sandbox) -> None:
    hold = "x = bytearray(150 << 20); import time; time.sleep(4); print('kept')"
    done = box.run(f'for i in 1 2 3 4; do python3 -c "{hold}" & done; wait', Limits(wall_s=30))
    assert not done.timed_out and done.output.splitlines().count(b"kept") < 4


def test_shared_memory_is_limited(box: Sandbox) -> None:
    assert box.run("head -c 100M /dev/zero > /dev/shm/x", Limits(wall_s=20)).code != 0


def test_background_processes_end_with_command(box: Sandbox) -> None:
    started = time.monotonic()
    box.run("sleep 98765 & setsid sleep 98765 & echo started", SHORT)
    assert time.monotonic() - started < 4
    commands = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if command == "sleep 98765"]


def test_wall_limit_ends_everything(box: Sandbox) -> None:
    done = box.run("trap '' TERM INT; sleep 60", Limits(wall_s=0.5))
    assert done.timed_out and done.wall_s < 5


@pytest.mark.parametrize(
    "command",
    [
        "mkdir /sys/fs/cgroup/mine /sys/fs/cgroup/pids/mine",
        "python3 -c 'import socket; socket.create_connection((\"1.1.1.1\", 53), 2)'",
        "test -e /var/run/docker.sock",
        "curl -m 2 http://1.1.1.1",
        "mount -t tmpfs none /mnt",
        "mknod disk b 8 0",
        "kill -9 1; sleep 0.2; test $(ls -d /proc/[0-9]* | wc -l) -gt 12",
    ],
)
def test_host_is_out_of_reach(box: Sandbox, command: str) -> None:
    assert box.run(command, SHORT).code != 0


def test_home_of_user_cannot_be_read(box: Sandbox) -> None:
    with tempfile.NamedTemporaryFile(dir=Path.home(), prefix=".kvci-test-") as secret:
        secret.write(b"token")
        secret.flush()
        done = box.run(f"cat {secret.name}; ls -a ~ /home /root | grep kvci-test", SHORT)
    assert b"token" not in done.output and done.code == 1


def test_write_to_etc_stays_inside(box: Sandbox) -> None:
    before = Path("/etc/passwd").read_bytes()
    box.run("echo x >> /etc/passwd; echo x > /etc/kvci-was-here; echo x > /usr/kvci", SHORT)
    assert Path("/etc/passwd").read_bytes() == before
    assert not Path("/etc/kvci-was-here").exists() and not Path("/usr/kvci").exists()


def test_script_text_is_not_standard_input(box: Sandbox) -> None:
    done = box.script("cat; echo 'one'\n" + "# long\n" * 40_000 + "echo two\n", SHORT)
    assert done.output == b"one\ntwo\n"


def test_host_environment_stays_outside(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVCI_SECRET", "token")
    assert b"token" not in box.run("env; cat /proc/self/environ /proc/1/environ", SHORT).output


def test_diff_leaves_out_products_tests_and_binaries(box: Sandbox) -> None:
    box.run(
        "sed -i s/1/3/ a.py; echo new > 'n w.py'; rm package/b.py; echo t >> tests/test_a.py;"
        "mkdir -p package/__pycache__ build; touch package/__pycache__/x.pyc; echo b > build/b.py;"
        "printf '\\0\\1' | tee binary.bin > 'bínary 2.bin'; git add -A; git commit -qm mine",
        SHORT,
    )
    patch = box.diff(exclude=("tests/test_a.py",)).decode()
    assert "-x = 1\n+x = 3\n" in patch and "n w.py" in patch and "-y = 2" in patch
    for absent in ("tests/", "pycache", "build", "binary", "Binary files"):
        assert absent not in patch


def test_new_file_in_base_folder_build_is_kept(box: Sandbox) -> None:
    box.run(
        "sed -i s/3/4/ package/build/c.py; echo new > package/build/d.py;"
        "mkdir -p build package/dist package/build/x; echo made | tee build/b package/dist/b;"
        "echo made > package/build/x/y.pyc; echo too > package/build/x/y.py",
        SHORT,
    )
    patch = box.diff()
    assert b"-z = 3\n+z = 4\n" in patch and b"+new" in patch and b"+too" in patch
    assert b"made" not in patch
    box.run("rm -r package/build", SHORT)
    assert b"-z = 3" in box.diff()


def test_untouched_tree_has_no_diff(box: Sandbox) -> None:
    assert box.diff() == b""


def test_hostile_git_settings_have_no_effect(box: Sandbox) -> None:
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


def test_symlink_out_of_tree_stays_a_link(box: Sandbox) -> None:
    box.run("ln -s /etc/passwd link; rm a.py; ln -s /etc/passwd a.py", SHORT)
    patch = box.diff()
    assert b"root:" not in patch and b"+/etc/passwd" in patch


def test_unreadable_tree_has_diff(box: Sandbox) -> None:
    box.run("echo '# seen' >> a.py; chmod 000 package package/* a.py", SHORT)
    patch = box.diff()
    assert b"+# seen" in patch and b"package" not in patch


def test_repository_remade_by_model_has_diff(box: Sandbox) -> None:
    box.run("rm -rf .git; git init -q; echo z = 3 >> a.py; git add -A", SHORT)
    assert b"+z = 3" in box.diff()


@pytest.mark.parametrize(
    "command",
    [
        "mkdir repro && cd repro && git init -q && echo 1 > x",
        "git -c user.name=x -c user.email=x commit -qam x && git clone -q . copy",
        "git worktree add -q other HEAD",
        "echo x > .git/mine && ln .git/mine link && git rm -q --cached package/b.py",
    ],
)
def test_nested_repositories_do_not_change_patch(command: str, box: Sandbox) -> None:
    """The tree has a repository without a commit, hard links into .git, and a second work tree."""
    assert box.run("echo 'x = 2' > a.py", SHORT).code == 0
    before = box.diff()
    assert b"+x = 2" in before
    done = box.run(command, SHORT)
    assert done.code == 0, done.output
    link = b"diff --git a/link"  # in bubblewrap the link itself is in the diff
    assert box.diff().partition(link)[0] == before


def test_tree_that_engine_cannot_unpack_is_diff_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    container = Docker(calibration_image(), FILES, CAPS)

    def broken(_: object, out: IO[bytes]) -> None:
        with tarfile.open(fileobj=out, mode="w") as archive:
            member = tarfile.TarInfo("testbed/a")
            member.type, member.linkname = tarfile.LNKTYPE, "testbed/none"
            archive.addfile(member)
        out.seek(0)

    monkeypatch.setattr(Docker, "_copy_tree", broken)
    try:
        with pytest.raises(DiffFailed, match="cannot be copied"):
            container.diff()
    finally:
        container.close()


def test_ten_gigabytes_in_tree_are_no_infrastructure_failure(box: Sandbox) -> None:
    """The patch is cut, or there is no patch. The sandbox never fails."""
    box.run("yes 0123456789 | head -c 40M > big.txt; truncate -s 10G sparse", Limits(wall_s=30))
    try:
        patch = box.diff()
    except DiffFailed:
        return
    assert len(patch) <= 16 << 20


def test_emptied_tree_has_diff(box: Sandbox) -> None:
    box.run(
        "find /testbed -mindepth 1 -delete; mkfifo p; ln p p2; ln -s / root; ln -s root/etc e",
        SHORT,
    )
    patch = box.diff()
    assert b"-x = 1" in patch and b"root:" not in patch


@pytest.mark.parametrize(
    "rules",
    [
        "printf '*.py binary\\n' > .gitattributes",
        "printf '*.py -diff\\n' > .gitattributes",
        "printf '*.py text eol=crlf working-tree-encoding=UTF-16\\n' > .gitattributes",
        "echo '*' > .gitignore",
        "mkdir sub; echo '*' > sub/.gitignore; echo '*.py -text' > package/.gitattributes",
    ],
)
def test_rule_files_of_model_hide_nothing(box: Sandbox, rules: str) -> None:
    box.run(f"{rules}; sed -i s/1/3/ a.py; echo 'y = 9' > new.py", SHORT)
    patch = box.diff()
    assert b"-x = 1\n+x = 3\n" in patch and b"+y = 9" in patch
    assert b"+++ b/.git" in patch or b"/.git" in patch  # the model's rule files are in the diff too


def test_base_rules_apply_and_diff_shows_their_change() -> None:
    bubble = Bwrap({".gitignore": "*.log\n", "a.py": "x = 1\n"})
    try:
        bubble.run("echo noise > a.log; echo '*.txt' > .gitignore; echo kept > b.txt", SHORT)
        patch = bubble.diff()
        assert b"noise" not in patch and b"+kept" in patch
        assert b"-*.log\n+*.txt\n" in patch
        bubble.run("rm .gitignore", SHORT)
        assert b"deleted file mode 100644\nindex" in bubble.diff()
    finally:
        bubble.close()


def test_text_that_is_not_utf_8_survives(box: Sandbox) -> None:
    box.run("printf 'caf\\351\\n' > notes.txt", SHORT)
    patch = box.diff()
    assert b"+caf\xe9\n" in patch
    text = patch.decode(errors="surrogateescape")
    done = box.script(f"rm notes.txt; git apply - <<'EOF'\n{text}EOF\ncat notes.txt\n", SHORT)
    assert done.output == b"caf\xe9\n"


def test_output_that_imitates_sandbox_is_normal(box: Sandbox) -> None:
    done = box.run("echo 'bwrap: hello'; exit 1", SHORT)
    assert (done.output, done.code) == (b"bwrap: hello\n", 1)


def test_removed_shell_leaves_diff_possible(box: Sandbox) -> None:
    box.run("echo 'y = 2' >> a.py; rm -f /bin/bash /usr/bin/bash; sleep 60 & exit", SHORT)
    box.run("true", SHORT)
    assert b"+y = 2" in box.diff()


@pytest.mark.parametrize(
    "program",
    [
        "import os; f = os.memfd_create('x'); [os.write(f, bytes(1 << 20)) for _ in range(400)]",
        "import mmap; m = mmap.mmap(-1, 400 << 20)\n"
        "for at in range(0, 400 << 20, 4096): m[at] = 1\n"
        "m.madvise(mmap.MADV_DONTNEED); time.sleep(3)",
        "import ctypes; l = ctypes.CDLL(None); i = l.shmget(0, 400 << 20, 0o1600); assert i >= 0\n"
        "l.shmat.restype = ctypes.c_void_p\n"
        "ctypes.memset(l.shmat(i, None, 0), 1, 400 << 20)",
    ],
    ids=["memfd", "shared mapping", "System V"],
)
def test_memory_without_owner_is_limited(box: Sandbox, program: str) -> None:
    """Earlier, such memory was outside the limit where kvci could not write a cgroup."""
    done = box.run(f"python3 - <<'EOF'\nimport time\n{program}\nprint('ke' 'pt')\nEOF", LONG)
    assert b"kept" not in done.output and done.code != 0


def test_trial_leaves_processes_to_others(kind: str) -> None:
    """Earlier, without a cgroup, one trial's processes made the forks of another fail."""
    first, second = made(kind), made(kind)
    try:
        with ThreadPoolExecutor(1) as pool:
            many = pool.submit(first.run, "for i in {1..60}; do sleep 4 & done; wait", LONG)
            time.sleep(1.5)
            done = second.run("for i in {1..40}; do sleep 0.2 & done; wait; echo fine", LONG)
            assert done.output == b"fine\n"
            assert many.result().output == b""
            assert b"retry" in first.run("for i in {1..80}; do sleep 1 & done; wait", LONG).output
    finally:
        first.close()
        second.close()


def test_cpus_are_limited(kind: str) -> None:
    """Earlier, this limit had no effect in bubblewrap."""
    if kind == "bwrap" and "CPUs" not in bwrap.check():
        pytest.skip("without a cgroup, the CPUs are not limited, and the manifest says so")
    box = made(kind, Caps(memory_mib=200, processes=64, cpus=0.5))
    try:
        burn = "import time\nend = time.monotonic() + 3\nwhile time.monotonic() < end: pass\n"
        burn += "print(time.process_time())"
        used_s = float(box.run(f'python3 -c "{burn}"', LONG).output)
    finally:
        box.close()
    assert used_s < 2.2


def test_nothing_of_killed_command_runs_beside_diff(box: Sandbox) -> None:
    """Earlier, processes of a command that timed out could write a moment longer."""
    write = "i=0; while :; do i=$((i+1)); echo $i > a.py; done"
    for _ in range(2):
        box.run(f"for n in {{1..8}}; do ({write}) & done; wait", Limits(wall_s=0.3))
        if isinstance(box, Bwrap):
            before = (box._tree / "a.py").read_text()
            assert box.run("cat a.py", SHORT).output.decode() == before
            assert (box._tree / "a.py").stat().st_mtime < time.time()
        assert box.diff() == box.diff()


def test_forbidden_tree_is_failure_of_trial(box: Sandbox) -> None:
    """Earlier, this was an infrastructure failure in bubblewrap."""
    box.run("echo 'x = 2' > a.py; chmod 000 /testbed /tmp", SHORT)
    assert box.run("cat a.py; touch /tmp/x && echo fine", SHORT).output == b"x = 2\nfine\n"
    box.run("chmod 000 /testbed", SHORT)
    assert b"+x = 2" in box.diff()


BREAKS = {
    "libc": ": > $(realpath $(ldd /bin/bash | sed -n 's/.*=> \\(.*libc.so[^ ]*\\) .*/\\1/p'))",
    "loader": "rm -f /lib64/ld-linux-x86-64.so.2",
    "other program": "cp /bin/true /tmp/bash; mv -f /tmp/bash /bin/bash",
    "program that ends as if killed": (
        "printf '#!/bin/sh\\nexit 137\\n' > /tmp/b; chmod +x /tmp/b; mv -f /tmp/b /bin/bash"
    ),
    "preload": "echo /nowhere.so > /etc/ld.so.preload; mkdir /bin/bash.d; mv /bin/bash /bin/bash.d",
    "passwd": "rm -f /etc/passwd; mkfifo /etc/passwd",
    "group": "rm -f /etc/group; mkfifo /etc/group",
    "etc": "rm -rf /etc; mkdir -p /etc/passwd /etc/group",
    "link to a device": "ln -sf /dev/zero /etc/passwd",
    "link to a pipe of the container": "mkfifo /dev/shm/f; ln -sf /dev/shm/f /etc/passwd",
    "link to output": "ln -sf /proc/1/fd/1 /etc/group",
    "folder that is a link": (
        "mkdir /dev/shm/etc; mkfifo /dev/shm/etc/passwd; mv /etc /etc2; ln -s /dev/shm/etc /etc"
    ),
    "long file": "for i in {1..66000}; do echo g$i:x:$i:root; done > /etc/group",
}


OFTEN = {"libc", "passwd", "folder that is a link", "program that ends as if killed"}
"""The ways that each test run tries; the others take a minute together."""


@pytest.mark.parametrize(
    "way", [way if way in OFTEN else pytest.param(way, marks=pytest.mark.long) for way in BREAKS]
)
def test_trial_that_breaks_container_fails_alone(box: Sandbox, way: str) -> None:
    """Earlier, these were infrastructure failures, and two of them stopped the Docker engine."""
    box.run(f"echo 'x = 2' > a.py; sleep 60 & {BREAKS[way]}", SHORT)
    started = time.monotonic()
    box.run("true", SHORT)
    box.script("sleep 60 &", SHORT)
    box.run("true", SHORT)
    assert b"+x = 2" in box.diff()
    assert time.monotonic() - started < 40


END = {
    "memory of process 1": (
        "dd if=/dev/zero of=/proc/1/mem bs=4096 count=50 conv=notrunc "
        "seek=$((0x$(grep -m1 r-xp /proc/1/maps | cut -d- -f1)/4096)); echo > /proc/1/fd/0; sleep 1"
    ),
    "tracing process 1": (
        "python3 -c 'import ctypes, time; l = ctypes.CDLL(None); l.ptrace(16, 1, 0, 0)\n"
        "time.sleep(0.3); l.ptrace(7, 1, 0, 9)'; sleep 1"
    ),
}


@pytest.mark.parametrize("way", END)
def test_trial_that_ends_process_1_fails_alone(box: Sandbox, way: str) -> None:
    """Earlier, this was an infrastructure failure in Docker."""
    box.run(f"echo 'x = 2' > a.py; {END[way]}", LONG)
    box.run("true", SHORT)
    assert b"+x = 2" in box.diff()


def test_no_process_survives_its_command(box: Sandbox) -> None:
    """Earlier, one process could stay in place of the sleep of a container's process 1."""
    write = (
        "setsid bash -c 'while :; do echo $RANDOM > /testbed/z; sleep 0.1; done' > /dev/null 2>&1"
    )
    kill = "kill -9 $(grep -l '^sleep' /proc/[0-9]*/comm | cut -d/ -f3)"
    box.run(f"rm -f /bin/sleep; {kill}; ({write} &)", SHORT)
    assert box.diff() == box.diff()
    if isinstance(box, Docker):
        assert len(box._container.top()["Processes"]) == 1


def test_rule_files_of_caches_are_not_in_patch(box: Sandbox) -> None:
    """Earlier, a tree in which only pytest had run had a patch."""
    box.run(
        "mkdir .pytest_cache build; echo '*' | tee .pytest_cache/.gitignore > build/.gitignore",
        SHORT,
    )
    box.run("git init -q copy; echo '*' > copy/.gitignore", SHORT)
    assert box.diff() == b""
    box.run("mkdir sub; echo '*.log' > sub/.gitignore", SHORT)
    assert b"+*.log" in box.diff()


def test_odd_names_do_not_lose_the_patch(box: Sandbox) -> None:
    """Earlier, git refused the whole tree because of a name that only Windows cannot have."""
    box.run(
        "echo 'x = 2' > a.py; touch 'git~1' '.git '; mkdir .gitignore; echo 1 > .gitignore/x", SHORT
    )
    patch = box.diff()
    assert b"+x = 2" in patch and b".gitignore/x" in patch


def test_tree_that_leads_nowhere_is_failure_of_trial(box: Sandbox) -> None:
    box.run("cd /; mv /testbed /t2 && ln -s /testbed /testbed", SHORT)
    if isinstance(box, Docker):
        with pytest.raises(DiffFailed):
            box.diff()
