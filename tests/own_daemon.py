"""A Docker daemon for tests that kill it or fill its disk; the machine's daemon stays untouched."""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import psutil
import pytest

from kvci.docker import engine
from tests.made_images import calibration_image, skip_or_fail

CLONE_NEWNET = 0x40000000
NEEDED = ("dockerd", "mkfs.ext4", "losetup", "ip")
READY_S = 60


@dataclass
class Daemon:
    """A daemon whose data are on a file system of their own, which a test can fill."""

    folder: Path
    driver: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/socket"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def start(self) -> None:
        """Return when it answers. After a kill its containerd may need a second try."""
        if not (self._started() or self._started()):
            skip_or_fail(f"dockerd does not start: {(self.folder / 'log').read_text()[-500:]}")

    def _started(self) -> bool:
        config = {
            "data-root": str(self.data),
            "exec-root": str(self.folder / "exec"),
            "storage-driver": self.driver,
        }
        (self.folder / "config.json").write_text(json.dumps(config))
        words = ["dockerd", "--config-file", str(self.folder / "config.json"), "-H", self.url]
        words += ["--pidfile", str(self.folder / "pid"), "--bridge=none"]
        words += ["--iptables=false", "--ip6tables=false"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log)
        until = time.monotonic() + READY_S
        while time.monotonic() < until:
            with contextlib.suppress(*engine.ENGINE_ERRORS):
                docker.DockerClient(self.url).ping()
                return True
            time.sleep(0.2)
        self.signal(signal.SIGKILL)
        return False

    def signal(self, number: signal.Signals) -> None:
        assert self.process
        self.process.send_signal(number)
        if number is signal.SIGKILL:
            self.process.wait()
            (self.folder / "pid").unlink(missing_ok=True)
            for one in self._processes("containerd"):
                one.kill()
                one.wait()

    def _processes(self, name: str = "") -> list[psutil.Process]:
        """This daemon's processes that have this name, or all of them."""
        found = []
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if str(self.folder) in " ".join(one.cmdline()) and name in ("", one.name()):
                    found.append(one)
        return found

    def end(self) -> None:
        """Kill the daemon, its containerd and all containers, which outlive a killed daemon."""
        processes = set()
        for one in self._processes():
            with contextlib.suppress(psutil.Error):
                processes |= {one, *one.children(recursive=True)}
        for one in processes:
            with contextlib.suppress(psutil.Error):
                one.kill()
        if self.process:
            self.process.wait()

    @contextlib.contextmanager
    def filled(self) -> Iterator[None]:
        """While the context is open, its disk has no free space."""
        ballast = self.data / "ballast"
        try:
            with ballast.open("wb") as out, contextlib.suppress(OSError):
                while True:
                    out.write(bytes(1 << 20))
            yield
        finally:
            ballast.unlink()


@contextlib.contextmanager
def own_daemon(disk_bytes: int) -> Iterator[Daemon]:
    """A daemon that is this process's engine and has the calibration image.

    Skips if it cannot run here, and fails if CI=true. The whole process is in a network namespace
    of its own meanwhile. The daemon must be, because one without a bridge removes the machine's.
    """
    calibration_image()
    if os.geteuid() or not all(map(shutil.which, NEEDED)):
        skip_or_fail(f"a separate Docker daemon needs root and {', '.join(NEEDED)}")
    machine, info = engine.client(), engine.client().info()
    with tempfile.TemporaryDirectory(prefix="kvci-daemon-") as name:
        daemon = Daemon(Path(name), info["Driver"])
        with _disk(daemon, disk_bytes), _network(), pytest.MonkeyPatch.context() as patch:
            try:
                daemon.start()
                saved = machine.images.get(calibration_image()).save(named=calibration_image())
                loaded = docker.DockerClient(daemon.url, timeout=600).images.load(b"".join(saved))
                assert loaded
                patch.setenv("DOCKER_HOST", daemon.url)
                _clear_caches()
                yield daemon
            finally:
                daemon.end()
                patch.undo()
                _clear_caches()


def _clear_caches() -> None:
    """Clear what `kvci.docker.engine` remembers about its engine."""
    for cached in (engine.client, engine.cpus, engine._root_folder):
        cached.cache_clear()


@contextlib.contextmanager
def _disk(daemon: Daemon, size_bytes: int) -> Iterator[None]:
    image = daemon.folder / "disk"
    with image.open("wb") as file:
        file.truncate(size_bytes)
    daemon.data.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(daemon.data)], check=True)
    try:
        yield
    finally:
        for mount in reversed(psutil.disk_partitions(all=True)):
            if mount.mountpoint.startswith(str(daemon.folder)):
                subprocess.run(["umount", "-l", mount.mountpoint], check=True)


@contextlib.contextmanager
def _network() -> Iterator[None]:
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as original:
        if libc.unshare(CLONE_NEWNET):
            skip_or_fail(f"a network namespace cannot be made: {os.strerror(ctypes.get_errno())}")
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            yield
        finally:
            assert libc.setns(original.fileno(), CLONE_NEWNET) == 0
