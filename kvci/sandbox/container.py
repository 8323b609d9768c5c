"""The Docker sandbox: one container a trial, no network, no mounts, few capabilities."""

import contextlib
import io
import socket
import struct
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from typing import IO, Any

import requests
from docker.errors import APIError, NotFound

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
    has_too_little,
)
from kvci.errors import UserError
from kvci.host import process
from kvci.sandbox import (
    HOG_BYTES,
    TREE,
    Caps,
    DiffFailed,
    Limits,
    Result,
    SandboxFailed,
    diff,
    unfit,
)
from kvci.sandbox.capped import HeadAndTail

LIFETIME_S = 72 * 3600
"""A container that nobody sweeps ends by itself; longer than a trial or its tests can take."""
WATCH_S = 10.0
"""So often an engine is asked whether it is there while a command goes on."""
TREE_MAX_BYTES = 2 << 30
NO_SPACE = b"No space left on device"
CAPABILITIES = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"]
"""What root needs to go on owning the files of its image; all others are dropped."""
FIRST = (
    f"while [ $SECONDS -lt {LIFETIME_S} ]; do sleep 60 || read -rt 9 < /dev/udp/127.0.0.1/9; done"
)
"""Process 1. Being bash it reaps, and as process 1 no signal from inside ends it. Where nothing can
be run any more, because the file system is gone, it waits for a word that never comes."""
PLAIN = {"LC_ALL": "C.UTF-8"}
"""For scripts whose output is read: bash says on it what it thinks of an image's locale."""
OFFLINE = {"PIP_NO_INDEX": "1"}
"""Without a network pip would only lose time asking."""
QUIET = {"LANG": "C.UTF-8", "PAGER": "cat", "PYTHONDONTWRITEBYTECODE": "1"}
"""Beside what the image's own activation sets, for the model's commands."""
ACTIVATE = """
if [ -f /opt/miniconda3/bin/activate ]; then
  { . /opt/miniconda3/bin/activate && conda activate testbed; } > /dev/null 2>&1 || exit
fi
unset PWD OLDPWD SHLVL HOSTNAME LC_ALL _
env -0
"""
"""As the harness's eval scripts do it; conda takes half a second, so once an image is enough."""
_ACTIVATED: dict[str, dict[str, str]] = {}
"""Image -> the environment that its activation gives."""


class Docker:
    """One trial's container of an image that holds the work tree, or of one with `files` put in.

    The model's commands run in the image's activated environment, scripts in its plain one, as
    the harness's do.
    """

    def __init__(
        self,
        image: str,
        files: dict[str, str] | None = None,
        caps: Caps | None = None,
        network: bool = False,
        run: str = "",
        asking: bool = False,
    ) -> None:
        """Raises SandboxFailed if the container does not start, or its image is not here."""
        self._image, self._files, self._caps = image, files, caps or Caps()
        self._network, self._run, self._asking = network, run, asking
        self._dead = False
        """What process 1 needs was taken away by the trial itself."""
        self._filled = False
        """The trial filled the engine's disk, and lost its container for it."""
        try:
            self._container = self._start()
            try:
                if files:
                    self._fill(files)
                if image not in _ACTIVATED:
                    _ACTIVATED[image] = self._activate()
            except BaseException:
                self.close()
                raise
        except (*ENGINE_ERRORS, UserError) as error:
            raise SandboxFailed(f"Docker: {str(error)[:500]}") from None

    def run(self, command: str, limits: Limits) -> Result:
        environment = _ACTIVATED[self._image] | QUIET
        return unfit(command) or self._exec(["bash", "-c", command], limits, environment)

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
        """Made in a second container, where the model has never been; only the tree goes over."""
        if not self._filled and self._full(b""):
            self._end_hog()
        if self._filled:
            raise DiffFailed("the trial filled the disk")
        clean = Docker(self._image, self._files, self._caps, run=self._run)
        try:
            empty = f"find {TREE} -mindepth 1 -maxdepth 1 ! -name .git -exec rm -rf {{}} +"
            if clean.run(empty, diff.LIMITS).code:
                raise SandboxFailed("Docker: a clean container's tree could not be emptied")
            with tempfile.TemporaryFile() as tree:
                self._copy_tree(tree)
                clean._take(tree)
            text = diff.script(f"{TREE}/.git", "/tmp/kvci-diff", exclude)
            return diff.patch_of(clean._script(text, diff.LIMITS, PLAIN))
        except tarfile.TarError as error:
            raise DiffFailed(f"the work tree cannot be read: {error}") from None
        except NotFound:
            self._must_be_there()
            raise DiffFailed(f"{TREE} is no more") from None
        except ENGINE_ERRORS as error:
            raise SandboxFailed(f"Docker: {error}") from None
        finally:
            clean.close()

    def _take(self, tree: IO[bytes]) -> None:
        """What the engine cannot unpack, for no reason of its own, the model made so."""
        try:
            self._container.put_archive("/", tree)
        except APIError as error:
            self._must_be_there()
            if disk_full() or not answers():
                raise
            raise DiffFailed(f"the work tree cannot be copied: {str(error)[-300:]}") from None

    def close(self) -> None:
        with contextlib.suppress(*ENGINE_ERRORS):
            self._container.remove(force=True, v=True)

    def _start(self) -> Any:
        bounds = {
            "network_mode": "bridge" if self._network else "none",
            "security_opt": ["no-new-privileges"],
            "cap_drop": ["ALL"],
            "cap_add": CAPABILITIES,
            "mem_limit": f"{self._caps.memory_mib}m",
            "memswap_limit": f"{self._caps.memory_mib}m",
            "pids_limit": self._caps.processes,
            "nano_cpus": int(1e9 * min(self._caps.cpus, cpus())),
        }
        asked = {
            "command": ["/bin/bash", "-c", FIRST],
            "entrypoint": [],
            "hostname": "sandbox",
            "user": "root",
            "environment": {} if self._network else OFFLINE,
            "labels": {OWNER: process(), RUN: self._run},
        }
        container = client().containers.create(self._image, **asked, **bounds)
        try:
            container.start()
        except BaseException:
            with contextlib.suppress(*ENGINE_ERRORS):
                container.remove(force=True, v=True)
            raise
        return container

    def _fill(self, files: dict[str, str]) -> None:
        """The repository at its base, before the model has touched anything."""
        self._container.put_archive("/", _tar({f"{TREE[1:]}/{n}": t for n, t in files.items()}))
        identity = "-c user.name=kvci -c user.email=kvci@localhost"
        commit = f"git init -q -b main && git add -A && git {identity} commit -qm base"
        done = self._exec(["bash", "-c", commit], Limits())
        if done.code:
            raise SandboxFailed(f"the work tree could not be made: {done.output[-300:]!r}")

    def _activate(self) -> dict[str, str]:
        done = self._exec(["bash", "-c", ACTIVATE], Limits(), PLAIN)
        if done.code or not done.output:
            raise SandboxFailed(f"the environment cannot be activated: {done.output[-300:]!r}")
        pairs = done.output.decode(errors="surrogateescape").rstrip("\0").split("\0")
        return dict(pair.split("=", 1) for pair in pairs)

    def _exec(
        self, command: list[str], limits: Limits, environment: dict[str, str] | None = None
    ) -> Result:
        """When the command has ended, one way or another, so has all that it started."""
        api, name = client().api, self._container.id
        kept, cap_bytes = HeadAndTail(limits.kept_bytes), limits.output_mib << 20
        bound = f"ulimit -c 0 -t {limits.cpu_s} -f {limits.file_mib << 10}"
        # Of two pipes an engine gives the lines in an order of its own.
        wait = f'read -r || exit; {bound}; exec "$@" < /dev/null 2>&1'
        try:
            if not self._filled:
                self._must_be_there()
            if self._dead or self._filled:
                return Result(b"", 137, False, 0, 0.0)
            words = ["bash", "-c", wait, "-", *command]
            made = api.exec_create(name, words, stdin=True, environment=environment, workdir=TREE)
            stream = api.exec_start(made["Id"], socket=True)
            connection: socket.socket = getattr(stream, "_sock", stream)
            watch = _Watch()
            started = time.monotonic()  # how long the engine took for all this is not the command's
            try:
                # It starts now; docker-py loses what comes in one piece with the answer's header.
                with contextlib.suppress(OSError):
                    connection.sendall(b"\n")
                over = _drain(connection, kept, started + limits.wall_s, cap_bytes, watch)
            finally:
                # Without this the engine goes on filling a pipe that nobody reads, and waits 10 s.
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                stream.close()
            wall_s = time.monotonic() - started
            if not over and (watch.silent or not answers()):
                raise SandboxFailed("Docker: it does not answer, so nobody knows what took so long")
            code = api.exec_inspect(made["Id"])["ExitCode"] if over else None
            self._must_be_there()
            if self._full(kept.bytes()):
                self._end_hog()
            elif code is None or self._busy():
                self._end_all()
        except ENGINE_ERRORS as error:
            raise SandboxFailed(f"Docker: {str(error)[:500]}") from None
        timed_out = wall_s >= limits.wall_s and kept.total_bytes <= cap_bytes
        return Result(
            kept.bytes(), 137 if code is None else code, timed_out, kept.total_bytes, wall_s
        )

    def _must_be_there(self) -> None:
        """Raises SandboxFailed if the container was ended from outside.

        Nothing inside ends process 1 but using up the memory, and then it is started again.
        """
        if self._vanished():
            raise SandboxFailed("Docker: the container is gone")
        state = self._container.attrs["State"]
        if not (state["Running"] or state["OOMKilled"] or self._dead):
            raise SandboxFailed("Docker: the container was ended from outside")
        if not state["Running"] and not self._dead:
            self._end_all()

    def _full(self, output: bytes) -> bool:
        """The engine's disk is. Where that is another machine's, a clean container is asked, but
        only if the command says so: the model may say it too, and would not be believed."""
        if disk_stats() is not None or NO_SPACE not in output or self._asking:
            return disk_full()
        clean = Docker(self._image, self._files, self._caps, run=self._run, asking=True)
        try:
            done = clean._exec(["stat", "-f", "-c", "%S %b %a %c %d", "/"], Limits())
        finally:
            clean.close()
        if done.code:
            raise SandboxFailed("Docker: nobody knows whether its disk is full")
        block, blocks, free, files, files_free = map(int, done.output.split()[:5])
        return has_too_little(free * block, blocks * block, files_free, files)

    def _end_hog(self) -> None:
        """The disk is full. What filled it goes, so that others have room; SandboxFailed if that
        was not this trial."""
        try:
            if self._written_bytes() < HOG_BYTES:
                raise SandboxFailed("Docker: its disk is full, and not by this trial")
            self._container.remove(force=True, v=True)
        except ENGINE_ERRORS as error:
            raise SandboxFailed(f"Docker: {str(error)[:500]}") from None
        self._filled = True

    def _written_bytes(self) -> int:
        one = client().api.containers(all=True, size=True, filters={"id": self._container.id})
        return int(one[0].get("SizeRw", 0)) if one else 0

    def _busy(self) -> bool:
        """More than process 1 and its sleep is there, or nothing at all."""
        try:
            processes = self._container.top()["Processes"] or []
        except NotFound:
            raise
        except APIError:
            processes = []
        if not processes:
            # It ended this moment, and it takes the engine another to say so.
            with contextlib.suppress(requests.RequestException):
                self._container.wait(timeout=10)
            self._must_be_there()
        return not 1 <= len(processes) <= 2

    def _end_all(self) -> None:
        """From outside, so that nothing inside has a say; the file system stays."""
        with contextlib.suppress(APIError):
            self._container.kill()
        try:
            self._container.start()
        except APIError as error:
            # What process 1 needs is gone: the trial's own doing, if the container is still there.
            if error.is_server_error() or self._vanished():
                raise
            self._dead = True

    def _vanished(self) -> bool:
        try:
            self._container.reload()
        except ENGINE_ERRORS:
            return True
        return False

    def _copy_tree(self, out: IO[bytes]) -> None:
        """The work tree as tar, without its git folder. Raises DiffFailed if it is too large."""
        stream, _ = self._container.get_archive(TREE)
        git = f"{TREE[1:]}/.git"
        with (
            tarfile.open(fileobj=_Chunks(stream), mode="r|") as old,
            tarfile.open(fileobj=out, mode="w") as new,
        ):
            for member in old:
                if member.name == git or member.name.startswith(f"{git}/"):
                    continue
                if member.islnk() and member.linkname.startswith(f"{git}/"):
                    continue  # what it is a name of does not come
                if member.isfile():
                    new.addfile(member, old.extractfile(member))
                elif member.issym() or member.isdir() or member.islnk():
                    new.addfile(member)
        out.seek(0)


class _Chunks(io.RawIOBase):
    """A file over an iterator of bytes, with a bound."""

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
        given, self._rest = self._rest[:size], self._rest[size:]
        return given


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
    """Is asked while a command goes on."""

    def __init__(self) -> None:
        self.silent = False
        """The engine did not answer once, so what took so long may not have been the command."""
        self._asked = time.monotonic()

    def __call__(self) -> bool:
        """True if what goes on can come to no good end."""
        if time.monotonic() >= self._asked + WATCH_S and not self.silent:
            self.silent = not answers()
            self._asked = time.monotonic()
        return ENDING.is_set() or disk_full()


def _drain(
    connection: socket.socket,
    kept: HeadAndTail,
    deadline: float,
    cap_bytes: int,
    over: Callable[[], bool],
) -> bool:
    """Read the frames of an exec until its end; False if the deadline or the cap came first.

    `over` is asked every second, and ends it too.

    A frame is eight bytes, of which the last four are its length, and that many bytes of output
    (Docker Engine API, "attach to a container", stream format).
    """
    pending = b""
    left_in_frame = 0
    asked = time.monotonic()
    while kept.total_bytes <= cap_bytes:
        now = time.monotonic()
        if now >= deadline:
            return False
        if now >= asked + 1:
            if over():
                return False
            asked = now
        connection.settimeout(max(0.001, min(1.0, deadline - now)))
        try:
            data = connection.recv(1 << 16)
        except TimeoutError:
            continue
        except ConnectionResetError:
            data = b""  # it ended before it read our word
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
