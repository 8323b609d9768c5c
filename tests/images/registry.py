"""A real registry on this machine, behind a proxy that fails as registries do."""

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
from kvci.sandbox import Limits
from kvci.sandbox.container import Docker
from kvci.tasks.instance import Instance
from tests.answers import Quiet, answer, listening
from tests.made_images import calibration_image, cannot

CONFIG = """
version: 0.1
log: {{accesslog: {{disabled: true}}, level: error}}
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""
NOTHING_TOLD = "cd /testbed/.git && rm -r logs COMMIT_EDITMSG"
"""So that nothing has to be stripped, which takes an engine seconds."""
Fault = Callable[["Handler"], bool]
"""Answers a request in its own way, and says if it did."""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@dataclass
class Registry:
    """Its address is the proxy's; what `fault` lets through reaches the real one."""

    address: str
    real: str
    fault: Fault | None = None
    asked: list[str] = field(default_factory=list)
    """Method and path of each request."""

    def push(self, image: str, repository: str) -> str:
        """Put an image of the engine's into the registry, not through the proxy; its name there."""
        direct, name = f"{self.real}/{repository}", f"{self.address}/{repository}"
        engine.client().images.get(image).tag(direct, "latest")
        for line in engine.client().api.push(direct, "latest", stream=True, decode=True):
            assert "error" not in line, line
        engine.client().images.remove(f"{direct}:latest", noprune=True)
        return f"{name}:latest"


class Handler(Quiet):
    registry: Registry

    def do_GET(self) -> None:
        self.registry.asked.append(f"{self.command} {self.path}")
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
def serving(found: str = "", kept: Path | None = None) -> Iterator[Registry]:
    """By the program that was found, if it was; skips where there is none, with CI=true fails.

    What it holds lies in `kept`, for the next one, or is gone when it ends.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        data = kept or folder / "data"
        (folder / "config.yml").write_text(CONFIG.format(folder=data, port=port))
        words = [found or program(folder), "serve", str(folder / "config.yml")]
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
    """Debian's docker-registry, which need not be set up."""
    found = shutil.which("docker-registry")
    if found:
        return found
    update = (
        "(apt-get download docker-registry || (apt-get update && apt-get download docker-registry))"
    )
    script = f"cd {folder} && {update} && dpkg -x docker-registry_*.deb ."
    if subprocess.run(script, shell=True, capture_output=True).returncode:
        cannot("there is no docker-registry here")
    return str(folder / "usr" / "bin" / "docker-registry")


def synthetic(
    registry: Registry, instances: list[Instance], layer_bytes: int, rows: Path, kind: str = "s"
) -> None:
    """An image for each instance with a layer of its own, in the registry alone; `rows` says so."""
    base, made = calibration_image(), []
    for number, instance in enumerate(instances):
        box = Docker(base, instance.files)
        fill = f"head -c {layer_bytes} /dev/urandom > /layer"
        assert box.script(f"{fill}; {NOTHING_TOLD}", Limits(file_mib=1024)).code == 0
        committed = box._container.commit("kvci-test", f"{kind}{number}")
        box.close()
        name = registry.push(f"kvci-test:{kind}{number}", f"kvci-test/{kind}{number}")
        engine.client().images.remove(committed.id, force=True)
        made.append(instance.row.model_copy(update={"image": name}).model_dump_json())
    rows.write_text("\n".join(made) + "\n")
