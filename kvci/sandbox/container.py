"""The Docker sandbox: one container for each trial, no network, no mounts, few capabilities."""

import base64
import contextlib
import io
import json
import os
import socket
import struct
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache
from typing import IO, Any, NoReturn

import requests
from docker.errors import APIError, NotFound
from docker.types import LogConfig

from kvci.children import ENDING
from kvci.docker.engine import (
    ENGINE_ERRORS,
    OWNER,
    RUN,
    answers,
    client,
    cpus,
    disk_full,
    disk_stats,
)
from kvci.errors import UserError
from kvci.free_space import has_too_little
from kvci.host import process
from kvci.sandbox import diff, seccomp
from kvci.sandbox.capped import HeadAndTail
from kvci.sandbox.clock import Clock
from kvci.sandbox.interface import (
    LARGE_WRITE_BYTES,
    LARGE_WRITE_FILES,
    TREE,
    Caps,
    DiffFailed,
    Limits,
    Result,
    SandboxFailed,
    rejection,
)

LIFETIME_S = 72 * 3600
"""A container that kvci does not remove ends after this time. Every trial ends earlier."""
WATCH_S = 10.0
"""The time between two pings of the engine while a command runs."""
TREE_MAX_BYTES = 2 << 30
NOT_FOUND = 404
GO_FILE, GO_FOLDER, GO_TYPES = 0, 1 << 31, 0x8F280000
"""The type in a mode of Go (io/fs: ModeDir), and the bits that hold the type (ModeType)."""
NANO = 10**9
NO_SPACE = b"No space left on device"
CAPABILITIES = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"]
"""The capabilities that root needs for the image's files. Other capabilities are dropped."""
PROCESS_1 = f"while [ $SECONDS -lt {LIFETIME_S} ]; do read -rt 3600; done"
"""The container's process 1, a bash that waits for input which never comes. It removes ended
processes from the process table, and no signal from inside can end it. It starts no process, so all
other processes in the container are the trial's."""
SCRIPT_ENVIRONMENT = {"LC_ALL": "C.UTF-8"}
"""Variables for scripts whose output kvci reads. Without them bash may warn about a locale."""
OFFLINE_ENVIRONMENT = {"PIP_NO_INDEX": "1"}
"""Variables without a network: pip fails at once, instead of after retries."""
COMMAND_ENVIRONMENT = {"LANG": "C.UTF-8", "PAGER": "cat", "PYTHONDONTWRITEBYTECODE": "1"}
"""Variables for the model's commands, in addition to those of the image's activation."""
NEW_USER_FILES = {"etc/passwd": "root:x:0:0:root:/root:/bin/bash\n", "etc/group": "root:x:0:\n"}
"""The files that the engine reads when it starts a process or copies files. If one is a named pipe,
the engine waits for ever and cannot remove the container; a long one takes it minutes."""
USER_FILE_MAX_BYTES = 32 << 10
ACTIVATE = """
if [ -f /opt/miniconda3/bin/activate ]; then
  { . /opt/miniconda3/bin/activate && conda activate testbed; } > /dev/null 2>&1 || exit
fi
unset PWD OLDPWD SHLVL HOSTNAME LC_ALL _
env -0
"""
"""Activates the environment as the harness's eval scripts do. The script runs once for each image,
because conda takes half a second."""
_ACTIVATED: dict[str, dict[str, str]] = {}
"""Image -> the environment variables after its activation."""


class Docker:
    """One trial's container. Its work tree is that of the image, or kvci makes it from `files`.

    The model's commands run in the image's activated environment. Scripts run without activation,
    as the harness's scripts do.
    """

    def __init__(
        self,
        image: str,
        files: dict[str, str] | None = None,
        caps: Caps | None = None,
        network: bool = False,
        run: str = "",
        probe: bool = False,
    ) -> None:
        """With `probe` the container only reports the free space of its disk.

        Raises SandboxFailed if the container does not start or its image is not on this machine.
        """
        self._image, self._files, self._caps = image, files, caps or Caps()
        self._network, self._run, self._probe = network, run, probe
        self._broken = False
        """True if the trial changed files so that the container cannot run a command any more."""
        self._lost = ""
        """What the trial did, if the container had to be removed with the trial's work."""
        try:
            self._container = self._start()
            try:
                if files:
                    self._commit_base(files)
                if image not in _ACTIVATED:
                    _ACTIVATED[image] = self._activate()
            except BaseException:
                self.close()
                raise
        except (*ENGINE_ERRORS, UserError) as error:
            raise SandboxFailed(f"Docker: {str(error)[:500]}") from None

    def run(self, command: str, limits: Limits) -> Result:
        environment = _ACTIVATED[self._image] | COMMAND_ENVIRONMENT
        return rejection(command) or self._exec(["bash", "-c", command], limits, environment)

    def script(self, text: str, limits: Limits) -> Result:
        return self._script(text, limits, {})

    def _script(self, text: str, limits: Limits, environment: dict[str, str]) -> Result:
        name = f"kvci-{uuid.uuid4().hex[:8]}.sh"
        try:
            self._container.put_archive("/", _tar({name: text}))
        except ENGINE_ERRORS as error:
            raise SandboxFailed(f"Docker: {error}") from None
        return self._exec(["bash", f"/{name}"], limits, environment)

    def diff(self, exclude: tuple[str, ...] = ()) -> bytes:
        """Return the diff. It is made in a second container, which the model never used.

        kvci copies only the work tree into that container.
        """
        if not self._lost and self._disk_full(b""):
            self._remove_container_that_filled_disk()
        if self._lost:
            raise DiffFailed(self._lost)
        clean = Docker(self._image, self._files, self._caps, run=self._run)
        try:
            empty = f"find {TREE} -mindepth 1 -maxdepth 1 ! -name .git -exec rm -rf {{}} +"
            if clean.run(empty, diff.LIMITS).code:
                raise SandboxFailed(
                    "Docker: the work tree of the clean container could not be emptied"
                )
            with tempfile.TemporaryFile() as tree:
                self._copy_tree(tree)
                clean._unpack(tree)
            text = diff.script(f"{TREE}/.git", "/tmp/kvci-diff", exclude)
            return diff.patch_of(clean._script(text, diff.LIMITS, SCRIPT_ENVIRONMENT))
        except tarfile.TarError as error:
            raise DiffFailed(f"the work tree cannot be read: {error}") from None
        except NotFound:
            self._require_running()
            raise DiffFailed(f"{TREE} does not exist any more") from None
        except ENGINE_ERRORS as error:
            raise SandboxFailed(f"Docker: {error}") from None
        finally:
            clean.close()

    def _unpack(self, tree: IO[bytes]) -> None:
        """Unpack a work tree into this container. Raises DiffFailed if the tree prevents it."""
        try:
            self._container.put_archive("/", tree)
        except APIError as error:
            self._blame_tree(error)

    def _blame_tree(self, error: APIError) -> NoReturn:
        """Raise DiffFailed if neither the engine nor its disk can be the cause of an error."""
        self._require_running()
        if disk_full() or not answers():
            raise error
        raise DiffFailed(f"the work tree cannot be copied: {str(error)[-300:]}") from None

    def close(self) -> None:
        with contextlib.suppress(*ENGINE_ERRORS):
            self._container.remove(force=True, v=True)

    def _start(self) -> Any:
        api = client().api
        bounds = api.create_host_config(
            network_mode="bridge" if self._network else "none",
            security_opt=["no-new-privileges", f"seccomp={seccomp.docker_profile()}"],
            cap_drop=["ALL"],
            cap_add=CAPABILITIES,
            mem_limit=f"{self._caps.memory_mib}m",
            memswap_limit=f"{self._caps.memory_mib}m",
            pids_limit=self._caps.processes,
            nano_cpus=int(1e9 * min(self._caps.cpus, cpus())),
            log_config=LogConfig(type="none"),  # a trial may write to the output of process 1
        )
        bounds["ReadonlyPaths"] = read_only()
        made = api.create_container(
            self._image,
            ["/bin/bash", "-c", PROCESS_1],
            stdin_open=True,
            entrypoint=[],
            hostname="sandbox",
            user="0",  # a number: the trial may change the names
            environment={} if self._network else OFFLINE_ENVIRONMENT,
            labels={OWNER: process(), RUN: self._run},
            host_config=bounds,
        )
        container = client().containers.get(made["Id"])
        try:
            container.start()
        except BaseException:
            with contextlib.suppress(*ENGINE_ERRORS):
                container.remove(force=True, v=True)
            raise
        return container

    def _commit_base(self, files: dict[str, str]) -> None:
        """Make the work tree and the base commit, before the model runs."""
        self._container.put_archive("/", _tar({f"{TREE[1:]}/{n}": t for n, t in files.items()}))
        identity = "-c user.name=kvci -c user.email=kvci@localhost"
        commit = f"git init -q -b main && git add -A && git {identity} commit -qm base"
        done = self._exec(["bash", "-c", commit], Limits())
        if done.code:
            raise SandboxFailed(f"the work tree could not be made: {done.output[-300:]!r}")

    def _activate(self) -> dict[str, str]:
        done = self._exec(["bash", "-c", ACTIVATE], Limits(), SCRIPT_ENVIRONMENT)
        if done.code or not done.output:
            raise SandboxFailed(f"the environment cannot be activated: {done.output[-300:]!r}")
        pairs = done.output.decode(errors="surrogateescape").rstrip("\0").split("\0")
        return dict(pair.split("=", 1) for pair in pairs)

    def _exec(
        self, command: list[str], limits: Limits, environment: dict[str, str] | None = None
    ) -> Result:
        """Run a command, and end every process that the command started."""
        api, name = client().api, self._container.id
        kept, cap_bytes = HeadAndTail(limits.kept_bytes), limits.output_mib << 20
        bound = f"ulimit -c 0 -t {limits.cpu_s} -f {limits.file_mib << 10}"
        # stdout and stderr share a pipe: with two pipes the engine changes the order of the lines.
        wait = f'read -r || exit; {bound}; exec "$@" < /dev/null 2>&1'
        try:
            if not self._lost:
                self._require_running()
            if self._broken or self._lost:
                return Result(b"", 137, False, 0, 0.0)
            words = ["bash", "-c", wait, "-", *command]
            made = api.exec_create(name, words, stdin=True, environment=environment, workdir=TREE)
            stream = api.exec_start(made["Id"], socket=True)
            connection: socket.socket = getattr(stream, "_sock", stream)
            watch, clock = _Watch(), Clock(limits)  # the engine's own time does not count
            try:
                # The command starts after this line, because docker-py loses output that arrives in
                # one piece with the answer's header.
                with contextlib.suppress(OSError):
                    connection.sendall(b"\n")
                ended = _drain(connection, kept, clock, cap_bytes, watch)
            finally:
                # Without a shutdown the engine fills a pipe that no process reads, and waits 10 s.
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                stream.close()
            wall_s, timed_out = clock.wall_s, not ended and clock.left_s() <= 0
            if not ended and (watch.silent or not answers()):
                raise SandboxFailed("Docker does not answer, so the command's time is unknown")
            code = api.exec_inspect(made["Id"])["ExitCode"] if ended else None
            self._require_running()
            if self._disk_full(kept.bytes()):
                self._remove_container_that_filled_disk()
            elif not self._broken and (code is None or self._has_leftovers()):
                self._restart()
            else:
                self._renew_user_files()
        except ENGINE_ERRORS as error:
            self._require_running()
            if self._broken:
                return Result(b"", 137, False, 0, 0.0)
            raise SandboxFailed(f"Docker: {str(error)[:500]}") from None
        return Result(
            kept.bytes(), 137 if code is None else code, timed_out, kept.total_bytes, wall_s
        )

    def _require_running(self) -> None:
        """Raise SandboxFailed if the container was stopped or removed from outside.

        If process 1 ended because the container's memory was used up, start the container again.
        If it ended without a request to the engine, the trial is the cause.
        """
        if self._is_gone():
            raise SandboxFailed("Docker: the container was removed")
        state = self._container.attrs["State"]
        if state["Running"] or self._broken:
            return
        if state["OOMKilled"]:
            self._restart()
        elif self._ended_by_itself(state):
            self._broken = True
        else:
            raise SandboxFailed("Docker: the container was stopped from outside")

    def _ended_by_itself(self, state: dict[str, Any]) -> bool:
        """True if the engine knows that process 1 ended, and that no request ended it.

        An engine that was started again has forgotten both.
        """
        start, end = (_nanoseconds(state[name]) for name in ("StartedAt", "FinishedAt"))
        events = client().api.events(
            since=start // NANO,
            until=end // NANO + 1,
            filters={"container": self._container.id, "event": ["die", "kill"]},
            decode=True,
        )
        actions = {event["Action"] for event in events if start <= event["timeNano"]}
        return actions == {"die"}

    def _disk_full(self, output: bytes) -> bool:
        """True if the engine's disk is full.

        If the engine runs on another machine and the command's output reports a full disk, a clean
        container measures the disk. The output alone is no proof: the model may print such a line.
        """
        if disk_stats() is not None or NO_SPACE not in output or self._probe:
            return disk_full()
        clean = Docker(self._image, self._files, self._caps, run=self._run, probe=True)
        try:
            done = clean._exec(["stat", "-f", "-c", "%S %b %a %c %d", "/"], Limits())
        finally:
            clean.close()
        if done.code:
            raise SandboxFailed("Docker: the free disk space could not be measured")
        block, blocks, free, files, files_free = map(int, done.output.split()[:5])
        return has_too_little(free * block, blocks * block, files_free, files)

    def _remove_container_that_filled_disk(self) -> None:
        """Remove the container. Raises SandboxFailed if this trial did not fill the disk."""
        try:
            wrote_much = self._written_bytes() >= LARGE_WRITE_BYTES
            if not wrote_much and self._written_files() < LARGE_WRITE_FILES:
                raise SandboxFailed("Docker's disk is full, but this trial did not fill it")
            self._container.remove(force=True, v=True)
        except ENGINE_ERRORS as error:
            raise SandboxFailed(f"Docker: {str(error)[:500]}") from None
        self._lost = "the trial filled the disk"

    def _written_bytes(self) -> int:
        one = client().api.containers(all=True, size=True, filters={"id": self._container.id})
        return int(one[0].get("SizeRw", 0)) if one else 0

    def _written_files(self) -> int:
        """Return how many files the trial changed, also if the container does not run."""
        return len(client().api.diff(self._container.id) or [])

    def _renew_user_files(self) -> None:
        """Replace NEW_USER_FILES if the engine cannot read them. The trial's processes have ended.

        If that fails, remove the container, before the engine reads the files.
        """
        if self._has_user_files():
            return
        with contextlib.suppress(APIError):
            self._container.put_archive("/", _tar(NEW_USER_FILES))
        if not self._has_user_files():
            self._container.remove(force=True, v=True)
            self._lost = "the trial replaced /etc/passwd or /etc/group"

    def _has_user_files(self) -> bool:
        """True if the files are short and regular, or do not exist, in a folder that is no link.

        A link may lead to a place that only the container's processes see.
        """
        kind, _ = self._stat("/etc")
        files = [self._stat(f"/{name}") for name in NEW_USER_FILES]
        return kind in (GO_FOLDER, None) and all(
            kind in (GO_FILE, None) and size <= USER_FILE_MAX_BYTES for kind, size in files
        )

    def _stat(self, path: str) -> tuple[int | None, int]:
        """Return the type bits of Go and the size of a path in the container.

        The type of a path that does not exist is None.
        """
        api = client().api
        url = api._url("/containers/{0}/archive", self._container.id)
        answer = api.head(url, params={"path": path}, timeout=api.timeout)
        if answer.status_code == NOT_FOUND:
            return None, 0
        answer.raise_for_status()
        found = json.loads(base64.b64decode(answer.headers["X-Docker-Container-Path-Stat"]))
        return found["mode"] & GO_TYPES, found["size"]

    def _has_leftovers(self) -> bool:
        """True if other processes than process 1 run, or if no process runs."""
        try:
            processes = self._container.top()["Processes"] or []
        except NotFound:
            raise
        except APIError:
            processes = []
        if not processes:
            # The container has just ended; the engine reports its end a moment later.
            with contextlib.suppress(requests.RequestException):
                self._container.wait(timeout=10)
            self._require_running()
        return len(processes) != 1

    def _restart(self) -> None:
        """Kill and start the container: every process ends, and the file system stays."""
        with contextlib.suppress(APIError):
            self._container.kill()
        self._renew_user_files()
        if self._lost:
            return
        try:
            self._container.start()
        except APIError as error:
            # If the container still exists, the trial removed a file that process 1 needs.
            if error.is_server_error() or self._is_gone():
                raise
            self._broken = True

    def _is_gone(self) -> bool:
        try:
            self._container.reload()
        except ENGINE_ERRORS:
            return True
        return False

    def _copy_tree(self, out: IO[bytes]) -> None:
        """Write the tree as tar, without its git folder. Raises DiffFailed if it is too large."""
        try:
            stream, _ = self._container.get_archive(TREE)
        except NotFound:
            raise
        except APIError as error:
            self._blame_tree(error)
        git, left_out = f"{TREE[1:]}/.git", set[str]()
        with (
            tarfile.open(fileobj=_Chunks(stream), mode="r|") as old,
            tarfile.open(fileobj=out, mode="w") as new,
        ):
            for member in old:
                if member.name == git or member.name.startswith(f"{git}/"):
                    continue
                if member.islnk() and member.linkname.startswith(f"{git}/"):
                    continue  # its target is in the git folder
                kept = member.isfile() or member.isdir() or member.issym() or member.islnk()
                if not kept or (member.islnk() and member.linkname in left_out):
                    left_out.add(member.name)  # a pipe or a device, or another name of one
                else:
                    new.addfile(member, old.extractfile(member) if member.isfile() else None)
        out.seek(0)


@cache
def read_only() -> list[str]:
    """Return what is below /proc of this kernel, apart from what belongs to a process.

    Modes and owners there are the kernel's: what root changes in one container, the host and all
    later containers see.
    """
    own = ("self", "thread-self", "net", "mounts")
    names = (name for name in os.listdir("/proc") if not name.isdecimal())
    return [f"/proc/{name}" for name in names if name not in own]


class _Chunks(io.RawIOBase):
    """A readable file over an iterator of bytes. Raises DiffFailed above TREE_MAX_BYTES."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest, self._total = iter(chunks), b"", 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while len(self._rest) < size:
            chunk = next(self._chunks, b"")
            if not chunk:
                break
            self._rest += chunk
            self._total += len(chunk)
            if self._total > TREE_MAX_BYTES:
                raise DiffFailed(f"the work tree is larger than {TREE_MAX_BYTES >> 20} MiB")
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def _nanoseconds(time: str) -> int:
    """Return the nanoseconds since 1970 of a time of the engine (RFC 3339, UTC)."""
    whole, _, part = time.rstrip("Z").partition(".")
    return int(datetime.fromisoformat(f"{whole}+00:00").timestamp()) * NANO + int(
        part.ljust(9, "0") or "0"
    )


def _tar(files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, text in files.items():
            data = text.encode(errors="surrogateescape")
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


class _Watch:
    """Watches a running command. It is called once a second, and pings the engine every WATCH_S."""

    def __init__(self) -> None:
        self.silent = False
        """True if the engine missed a ping. The command's time is then unknown: the engine hung."""
        self._pinged = time.monotonic()

    def __call__(self) -> bool:
        """True if the command must end: kvci is being stopped, or the disk is full."""
        if time.monotonic() >= self._pinged + WATCH_S and not self.silent:
            self.silent = not answers()
            self._pinged = time.monotonic()
        return ENDING.is_set() or disk_full()


def _drain(
    connection: socket.socket,
    kept: HeadAndTail,
    clock: Clock,
    cap_bytes: int,
    must_end: Callable[[], bool],
) -> bool:
    """Read the frames of a command's output until the command ends.

    Return False when no time is left, above `cap_bytes`, or when `must_end` returns True. It is
    called every second.

    A frame has a header of eight bytes. The last four bytes are the length of the output after the
    header (Docker Engine API, "attach to a container", stream format).
    """
    pending = b""
    left_in_frame = 0
    last_check = time.monotonic()
    while kept.total_bytes <= cap_bytes:
        left_s = clock.left_s()
        if left_s <= 0:
            return False
        if time.monotonic() >= last_check + 1:
            if must_end():
                return False
            last_check = time.monotonic()
        connection.settimeout(max(0.001, min(1.0, left_s)))
        try:
            data = connection.recv(1 << 16)
        except TimeoutError:
            continue
        except ConnectionResetError:
            data = b""  # the command ended before it read the line that starts it
        if not data:
            return True
        pending += data
        while pending:
            if left_in_frame:
                kept.add(pending[:left_in_frame])
                taken = min(left_in_frame, len(pending))
                pending, left_in_frame = pending[taken:], left_in_frame - taken
            elif len(pending) >= 8:
                left_in_frame = struct.unpack(">I", pending[4:8])[0]
                pending = pending[8:]
            else:
                break
    return False
