"""What a command inside a sandbox can reach: nothing beyond its own trial."""

import ctypes
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kvci.sandbox import Limits, Sandbox
from kvci.sandbox.container import CAPABILITIES
from tests.sandbox.conftest import made

SHORT = Limits(wall_s=30)
WRITABLE = """
import os
for root, folders, files in (step for top in ("/proc", "/sys", "/dev") for step in os.walk(top)):
    for name in files:
        path = os.path.join(root, name)
        try:
            if os.path.islink(path) or not os.lstat(path).st_mode & 0o222:
                continue
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            continue
        print(os.lstat(path).st_rdev, path)
"""
DEVICES = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts/ptmx"}
"""The devices of a sandbox. They hold nothing that another process can read."""
NEW_NAMESPACE = 0x10000000  # CLONE_NEWUSER
CALLS = {
    **{"add_key": (248, 0, 0, 0, 0, -3), "request_key": (249, 0, 0, 0, 0), "keyctl": (250, 0, -3)},
    **{"bpf": (321, 0, 0, 0), "userfaultfd": (323, 0), "perf_event_open": (298, 0, 0, -1, -1, 0)},
    **{"mount": (165, 0, 0, 0, 0, 0), "umount2": (166, 0, 0), "pivot_root": (155, 0, 0)},
    **{"move_mount": (429, -1, 0, -1, 0, 0), "open_tree": (428, -1, 0, 0), "fsopen": (430, 0, 0)},
    **{"unshare a user namespace": (272, NEW_NAMESPACE), "setns": (308, -1, 0)},
    **{"clone into a user namespace": (56, NEW_NAMESPACE | 17, 0, 0, 0, 0), "clone3": (435, 0, 0)},
    **{"io_uring_setup": (425, 1, 0), "io_uring_enter": (426, -1, 0, 0, 0, 0)},
    **{"reboot": (169, 0, 0, 0, 0), "kexec_load": (246, 0, 0, 0, 0), "init_module": (175, 0, 0, 0)},
    **{"swapon": (167, 0, 0), "acct": (163, 0), "quotactl": (179, 0, 0, 0, 0)},
    **{"open_by_handle_at": (304, -1, 0, 0), "fanotify_init": (300, 0, 0)},
    **{"clock_settime": (227, 0, 0), "settimeofday": (164, 0, 0), "sethostname": (170, 0, 0)},
    **{"iopl": (172, 3), "ioperm": (173, 0, 1, 1), "vhangup": (153,), "syslog": (103, 3, 0, 0)},
    **{"ptrace of a process of the host": (101, 16, os.getpid(), 0, 0)},
    **{"socket of a virtual machine": (41, 40, 1, 0)},
}
"""Name -> the number of a system call on x86-64 and its arguments."""
KEYS = """
import ctypes
libc = ctypes.CDLL(None)
made = libc.syscall(248, b"user", b"kvci-left", b"word", 4, -3)
found = libc.syscall(249, b"user", b"kvci-secret", 0, -3)
print(made, found)
"""


def python(box: Sandbox, program: str) -> str:
    done = box.script(f"python3 - <<'EOF'\n{program}\nEOF", SHORT)
    assert done.code == 0, done.output
    return done.output.decode()


def test_nothing_of_kernel_or_host_is_writable(box: Sandbox, kind: str) -> None:
    """Earlier, a command in bubblewrap could write settings of the host's kernel as root."""
    null = os.stat("/dev/null").st_rdev
    for line in python(box, WRITABLE).splitlines():
        device, path = line.split(" ", 1)
        name = path.removeprefix("/dev/")
        # In Docker, root may write what concerns its own processes.
        is_own = kind == "docker" and path.split("/")[2].isdecimal()
        assert int(device) == null or is_own or (path != name and name in DEVICES), path


def test_no_mode_below_proc_can_be_changed(box: Sandbox) -> None:
    """In Docker, root changed modes of the kernel's files for the host and all later containers."""
    program = "for f in /proc/*; do [ -f $f ] && chmod u+r $f && echo $f; done; true"
    done = box.run(program, SHORT)
    assert b"Read-only file system" in done.output
    assert not [line for line in done.output.splitlines() if line.startswith(b"/proc")]


def test_core_pattern_stays_as_it_is(box: Sandbox) -> None:
    pattern = Path("/proc/sys/kernel/core_pattern")
    before = pattern.read_bytes()
    done = box.run("echo '|/bin/true' > /proc/sys/kernel/core_pattern", SHORT)
    assert done.code != 0 and pattern.read_bytes() == before


def test_commands_run_as_ordinary_user_of_host(box: Sandbox, kind: str) -> None:
    """In Docker, root without capabilities is what the images need."""
    if kind == "docker":
        pytest.skip("the images need root; its capabilities are tested below")
    mapped = box.run("cat /proc/self/uid_map", SHORT).output.split()
    assert mapped[0] == b"1000" and box.run("id -u", SHORT).output == b"1000\n"
    box.run("touch mine", SHORT)
    owner = (box._tree / "mine").stat()  # type: ignore[attr-defined]
    assert owner.st_uid == owner.st_gid != 0
    assert owner.st_uid == os.geteuid() or os.geteuid() == 0


def test_capabilities_are_few(box: Sandbox, kind: str) -> None:
    numbers = {"CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "FSETID": 4, "KILL": 5}
    numbers |= {"SETGID": 6, "SETUID": 7}
    allowed = sum(1 << numbers[name] for name in CAPABILITIES) if kind == "docker" else 0
    status = box.run("cat /proc/self/status", SHORT).output.decode()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(fields[name], 16) & ~allowed == 0, name
    assert fields["NoNewPrivs"] == "1" and fields["Seccomp"] == "2"


def test_system_calls_are_refused(box: Sandbox) -> None:
    lines = ["import ctypes; libc = ctypes.CDLL(None, use_errno=True)"]
    lines += [f"print(libc.syscall{call}, ctypes.get_errno())" for call in CALLS.values()]
    answers = python(box, "\n".join(lines)).splitlines()
    for name, answer in zip(CALLS, answers, strict=True):
        result, error = map(int, answer.split())
        refused = {1, 38}  # EPERM, ENOSYS
        if name.startswith(("ptrace", "socket")):
            refused |= {3, 97}  # ESRCH, EAFNOSUPPORT
        assert result == -1 and error in refused, name


def test_keys_of_session_stay_outside(kind: str) -> None:
    """Earlier, a command in bubblewrap could read the session keyring of kvci's user."""
    libc = ctypes.CDLL(None)
    key = libc.syscall(248, b"user", b"kvci-secret", b"token", 5, -3)
    assert key > 0
    box = made(kind)
    try:
        assert python(box, KEYS).split() == ["-1", "-1"]
    finally:
        box.close()
        libc.syscall(250, 9, key, -3)


STATE = {
    "file in /tmp": ("echo word > /tmp/kvci-left", "cat /tmp/kvci-left"),
    "file in /dev/shm": ("echo word > /dev/shm/kvci-left; sleep 20", "cat /dev/shm/kvci-left"),
    "file at home": ("mkdir -p ~/.cache; echo word > ~/.cache/kvci-left", "cat ~/.cache/kvci-left"),
    "System V message queue": (
        "python3 -c 'import ctypes, time; l = ctypes.CDLL(None)\n"
        "print(l.msgget(77, 0o1666)); time.sleep(20)'",
        "python3 -c 'import ctypes; l = ctypes.CDLL(None)\n"
        'print("word" if l.msgget(77, 0o666) >= 0 else "")\'',
    ),
    "POSIX message queue": (
        'python3 -c \'import ctypes, time; l = ctypes.CDLL("librt.so.1")\n'
        'print(l.mq_open(b"/kvci", 0o102, 0o666, None)); time.sleep(20)\'',
        'python3 -c \'import ctypes; l = ctypes.CDLL("librt.so.1")\n'
        'print("word" if l.mq_open(b"/kvci", 2) >= 0 else "")\'',
    ),
    "abstract socket": (
        "python3 -c 'import socket, time; s = socket.socket(socket.AF_UNIX)\n"
        's.bind("\\0kvci"); s.listen(); time.sleep(20)\'',
        "python3 -c 'import socket; s = socket.socket(socket.AF_UNIX)\n"
        's.connect("\\0kvci"); print("word")\'',
    ),
    "port": (
        'python3 -c \'import socket, time; s = socket.create_server(("127.0.0.1", 8765))\n'
        "time.sleep(20)'",
        'python3 -c \'import socket; socket.create_connection(("127.0.0.1", 8765), 2)\n'
        'print("word")\'',
    ),
}
"""A way to pass a word -> the command that leaves the word, and the command that looks for it."""


def test_no_word_passes_to_another_trial(kind: str) -> None:
    leave = " & ".join(f"({command}) > /dev/null 2>&1" for command, _ in STATE.values())
    look = "\n".join(
        f"({command}) 2>&1 | grep -q word && echo {name!r}" for name, (_, command) in STATE.items()
    )
    first, second = made(kind), made(kind)
    try:
        with ThreadPoolExecutor(1) as pool:
            left = pool.submit(first.script, f"{leave} &\nsleep 4\n{look}\nsleep 6", SHORT)
            time.sleep(5)
            assert second.script(look, SHORT).output == b""
        found = left.result().output.decode().splitlines()
        assert found == list(STATE)  # the commands do find a word that is there
    finally:
        first.close()
        second.close()
