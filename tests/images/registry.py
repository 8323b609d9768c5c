"""Starts a real registry on this machine, behind a proxy that imitates failures."""

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path

import httpx

from kvci.docker import engine
from kvci.images import image_cache
from kvci.sandbox import Limits
from kvci.sandbox.container import Docker
from kvci.tasks.instance import Instance
from tests.answers import Quiet, answer, listening
from tests.made_images import calibration_image, skip_or_fail

CONFIG = """
version: 0.1
log: {{accesslog: {{disabled: true}}, level: error}}
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""
NO_LATER_HISTORY = "cd /testbed/.git && rm -r logs COMMIT_EDITMSG"
"""The command that makes an image without later history. A strip would take seconds."""
CLEAN, TO_STRIP = "kvci-test/pulled", "kvci-test/to-strip"
"""The repository of an image with nothing to strip, and of an image with later history."""
LAYER_BYTES = 1 << 20
"""The size of the layer that `synthetic` gives each image."""
Fault = Callable[["Handler"], bool]
"""A fault returns True if it has answered the request itself."""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@dataclass
class Registry:
    """A registry behind the proxy at `address`. `fault` may answer a request instead of it."""

    address: str
    real: str
    fault: Fault | None = None
    requests: list[str] = field(default_factory=list)
    """The method and the path of each request."""

    def push(self, image: str, repository: str) -> str:
        """Push one of the engine's images without the proxy; return its name at the proxy."""
        direct, name = f"{self.real}/{repository}", f"{self.address}/{repository}"
        engine.client().images.get(image).tag(direct, "latest")
        for line in engine.client().api.push(direct, "latest", stream=True, decode=True):
            assert "error" not in line, line
        engine.client().images.remove(f"{direct}:latest", noprune=True)
        return f"{name}:latest"


class Handler(Quiet):
    registry: Registry

    def do_GET(self) -> None:
        self.registry.requests.append(f"{self.command} {self.path}")
        if self.registry.fault and self.registry.fault(self):
            return
        headers = {name: value for name, value in self.headers.items() if name != "Host"}
        url = f"http://{self.registry.real}{self.path}"
        with httpx.stream(self.command, url, headers=headers, timeout=60) as got:
            self.send_response(got.status_code)
            for name, value in got.headers.items():
                if name.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.end_headers()
            for part in got.iter_raw():
                self.wfile.write(part)

    do_HEAD = do_GET

    def refuse(self, status: int, headers: dict[str, str] | None = None) -> None:
        body = b'{"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down"}]}'
        answer(self, status, body, headers)


@contextlib.contextmanager
def serving(binary: str = "", data: Path | None = None) -> Iterator[Registry]:
    """Run a registry. If its program is not available, skip the test, or fail it if CI=true.

    `binary` is the program, if it is known. With `data`, the images are in this folder, and a later
    registry finds them there. Without it, they are removed at the end.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        config = CONFIG.format(folder=data or folder / "data", port=port)
        (folder / "config.yml").write_text(config)
        words = [binary or program(folder), "serve", str(folder / "config.yml")]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        Handler.registry = Registry(f"localhost:{server.server_port}", f"localhost:{port}")
        try:
            until = time.monotonic() + 20
            while time.monotonic() < until:
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(f"http://localhost:{port}/v2/").status_code == 200:
                        break
                time.sleep(0.1)
            with listening(server):
                yield Handler.registry
        finally:
            process.kill()
            process.wait()


def program(folder: Path) -> str:
    """Return the path of docker-registry; unpack Debian's package if it is not installed."""
    found = shutil.which("docker-registry")
    if found:
        return found
    update = (
        "(apt-get download docker-registry || (apt-get update && apt-get download docker-registry))"
    )
    script = f"cd {folder} && {update} && dpkg -x docker-registry_*.deb ."
    if subprocess.run(script, shell=True, capture_output=True).returncode:
        skip_or_fail("docker-registry is not installed and cannot be downloaded")
    return str(folder / "usr" / "bin" / "docker-registry")


def synthetic(
    registry: Registry, instances: list[Instance], layer_bytes: int, rows: Path, kind: str = "s"
) -> None:
    """Push an image with a layer of its own for each instance; write their rows to `rows`.

    The engine has none of these images afterwards.
    """
    base, lines = calibration_image(), []
    for number, instance in enumerate(instances):
        box = Docker(base, instance.files)
        fill = f"head -c {layer_bytes} /dev/urandom > /layer"
        assert box.script(f"{fill}; {NO_LATER_HISTORY}", Limits(file_mib=1024)).code == 0
        committed = box._container.commit("kvci-test", f"{kind}{number}")
        box.close()
        name = registry.push(f"kvci-test:{kind}{number}", f"kvci-test/{kind}{number}")
        engine.client().images.remove(committed.id, force=True)
        lines.append(instance.row.model_copy(update={"image": name}).model_dump_json())
    rows.write_text("\n".join(lines) + "\n")


def fail(seconds: float, status: int, wait: str = "") -> Fault:
    """Answer requests for manifests with this status, for this many seconds from now."""
    until = time.monotonic() + seconds

    def fault(handler: Handler) -> bool:
        if "/manifests/" not in handler.path or time.monotonic() > until:
            return False
        handler.refuse(status, {"Retry-After": wait} if wait else None)
        return True

    return fault


def evict(name: str) -> None:
    """Evict the image of this name. No run or container may need it."""
    for cached in image_cache.cached_images():
        if name in cached.names:
            assert image_cache.evict(cached)
