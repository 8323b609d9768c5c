"""The bubblewrap sandbox: a read-only system, a new work tree, no network."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from kvci.errors import UserError
from kvci.files import make_accessible, remove_tree
from kvci.free_space import is_full
from kvci.sandbox import diff, launch
from kvci.sandbox.cgroup import Cgroup
from kvci.sandbox.host_user import HostUser
from kvci.sandbox.interface import (
    LARGE_WRITE_BYTES,
    LARGE_WRITE_FILES,
    TREE,
    Caps,
    Limits,
    Result,
    SandboxFailed,
    rejection,
)
from kvci.sandbox.launch import MODEL_ID, Mount

GIT_MARKER = "/kvci-git"
SCRIPT = "/kvci-script"
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


def check() -> str:
    """Return what enforces the limits, and which limits hold, for the manifest.

    Raises UserError if bubblewrap cannot make a sandbox on this machine.
    """
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise UserError("kvci's sandbox needs Linux on x86-64; run kvci on another machine.")
    group = Cgroup.create(Caps())
    if group:
        group.remove()
    elif os.geteuid() == 0:
        raise UserError(
            "As root the sandbox needs a writable cgroup, because rlimits do not bind root; run "
            "kvci as an ordinary user."
        )
    launch.program()
    if group:
        return f"{group.kind} (memory, processes, CPUs)"
    _require_own_process_limit()
    return "rlimits (memory, processes)"


def _require_own_process_limit() -> None:
    """Raise UserError if the processes of one sandbox count in the limit of another."""
    processes = Caps(processes=4)
    done = launch.start(["bash", "-c", "true & wait $!"], [], HostUser(), processes, Limits())
    if done.code:
        raise UserError(
            "This kernel counts the processes of all sandboxes together, so that one trial can "
            "stop another; use Linux 5.14 or later, or give kvci a cgroup: "
            "systemd-run --user --scope -p Delegate=yes kvci run ..."
        )


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
        self._user = HostUser()
        self._filled_disk = False
        """True if the trial filled the disk and its tree was removed."""
        for folder in (self._tree, self._tmp, self._etc):
            folder.mkdir()
        for name, text in files.items():
            path = self._tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (self._etc / "passwd").write_text(f"model:x:{MODEL_ID}:{MODEL_ID}::/tmp:/bin/sh\n")
        (self._etc / "group").write_text(f"model:x:{MODEL_ID}:\n")
        self._commit()
        self._user.give(self._folder)

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
        return rejection(command) or self._start(["bash", "-c", command], limits, self._tmp)

    def script(self, text: str, limits: Limits) -> Result:
        return self._script(text, limits, self._tmp)

    def diff(self, exclude: tuple[str, ...] = ()) -> bytes:
        """Return the diff. It is made inside the sandbox.

        The index and /tmp are new, and the model could not write the git folder.
        """
        text = diff.script(GIT_MARKER, "/tmp/kvci-diff", exclude)
        tmp = Path(tempfile.mkdtemp(dir=self._folder))
        self._user.give(tmp)
        git = Mount(self._git, GIT_MARKER)
        return diff.patch_of(self._script(text, diff.LIMITS, tmp, git))

    def close(self) -> None:
        remove_tree(self._folder)

    def _remove_tree_that_filled_disk(self) -> None:
        """Remove the trial's files. Raises SandboxFailed if this trial did not fill the disk."""
        size, files = _written(self._folder)
        if size < LARGE_WRITE_BYTES and files < LARGE_WRITE_FILES:
            raise SandboxFailed(
                f"the disk of {self._folder.parent} is full, but this trial did not fill it"
            )
        for folder in (self._tree, self._tmp):
            remove_tree(folder)
        self._filled_disk = True

    def _script(self, text: str, limits: Limits, tmp: Path, *more: Mount) -> Result:
        """Run the script from a read-only file; its standard input stays empty."""
        path = self._folder / "script"
        path.write_bytes(text.encode(errors="surrogateescape"))
        self._user.give(path)
        return self._start(["bash", SCRIPT], limits, tmp, Mount(path, SCRIPT), *more)

    def _start(self, command: list[str], limits: Limits, tmp: Path, *more: Mount) -> Result:
        if self._filled_disk:
            return Result(b"", 137, False, 0, 0.0)
        for folder in (self._tree, tmp):
            folder.chmod(0o755)  # the model may have forbidden it
        mounts = (
            Mount(self._etc, "/etc"),
            Mount(tmp, "/tmp", writable=True),
            Mount(self._tree, TREE, writable=True),
            *more,
        )
        done = launch.start(
            command, mounts, self._user, self._caps, limits, lambda: disk_full(self._folder)
        )
        if disk_full(self._folder):
            self._remove_tree_that_filled_disk()
        return done


def disk_full(folder: Path) -> bool:
    """True if the folder's disk has too little space for a sandbox."""
    return is_full(os.statvfs(folder))


def problem(folder: Path) -> str:
    """Return that the folder's disk is full, and what to do; empty if it has space."""
    return f"The disk of {folder} is full; free some space there" if disk_full(folder) else ""


def _written(folder: Path) -> tuple[int, int]:
    """Return the size of a folder in bytes, and how many files it has."""
    make_accessible(folder)  # du does not count a folder that it cannot read
    found = []
    for unit in ("--block-size=1", "--inodes"):
        words = ["du", "--summarize", unit, str(folder)]
        done = subprocess.run(words, capture_output=True, text=True)
        found.append(int(done.stdout.split()[0]))
    return found[0], found[1]
