"""Start one llama-server process, prove its configuration, and stop it."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Self

import httpx

from kvci.children import die_with_parent
from kvci.errors import UserError
from kvci.serve.effective import Effective, read
from kvci.serve.flags import server_flags
from kvci.serve.proof import MISSING, expected_of, judge
from kvci.serve.server_log import start_error
from kvci.spec import Arm, Spec

START_S = 600.0
WRITTEN_S = 10.0
STOP_S = 10.0
WATCH_S = 10.0
UNHEALTHY_MAX = 6
"""If a server fails this many health checks in a row, kvci kills it."""
USAGE = re.compile(
    r"error: invalid argument: |error while handling argument|does not know the flag"
)
"""Texts with which a server reports that its command line is wrong.

CUDA also writes "error: invalid argument", without the second colon. That error is not about the
command line.
"""
CONNECTIONS = httpx.Limits(max_connections=None, max_keepalive_connections=8)


class ServerFailed(Exception):
    """The server ended, hangs, or does not answer its health check."""


class NotProven(UserError):
    """The server rejects its flags, or its log does not prove what was asked for."""


def resolve(engine: str) -> str:
    """Return the engine that `auto` means on this machine. Return any other engine unchanged.

    `auto` means the llama-server in KVCI_LLAMA_SERVER. If that is not set, `auto` means the
    llama-server on PATH. If PATH has none, `auto` means the embedded engine.
    """
    if engine != "auto":
        return engine
    return os.environ.get("KVCI_LLAMA_SERVER") or shutil.which("llama-server") or "embedded"


def command(engine: str) -> list[str]:
    """Return the program that accepts llama-server's flags; an empty list for a URL.

    Raises UserError if the program does not exist.
    """
    if engine.startswith(("http:", "https:")):
        return []
    if engine == "embedded":
        return [sys.executable, "-m", "kvci.serve.embedded"]
    if engine.startswith("replay:"):
        script = Path(engine.removeprefix("replay:"))
        if not script.is_file():
            raise UserError(f"The replay script {script} does not exist; give another path.")
        return [sys.executable, "-m", "kvci.serve.replay", str(script)]
    if engine == "auto":
        return command(resolve(engine))
    found = shutil.which(engine)
    if not found:
        raise UserError(f"The engine {engine} is not a program; give the path of llama-server.")
    return [found]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A context manager. In its context, the server answers at `url` and is proved."""

    def __init__(
        self, spec: Spec, arm: Arm, model: Path, log: Path, scratch: Path | None = None
    ) -> None:
        """`scratch` is the folder in which the folder of saved slots is made.

        If kvci is killed, the caller clears `scratch`.
        """
        self.arm, self.log = arm, log
        self._verified = spec.verified
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        # One client for all requests, because each new client reads the certificates (30 ms).
        self._http = httpx.Client(base_url=self.url, limits=CONNECTIONS)
        self._folder = tempfile.TemporaryDirectory(prefix="kvci-slots-", dir=scratch)
        flags = server_flags(spec, arm, model, port, log, Path(self._folder.name))
        self.command = command(spec.engine) + flags
        self.asked = expected_of(spec, arm)
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        """Start the server and prove its configuration.

        Raises ServerFailed if the server does not start. Raises NotProven if it rejects its flags,
        or if its log does not prove what was asked for.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.with_suffix(".out").open("wb") as out:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )
        try:
            self._wait_until_healthy()
            if self._verified:
                self._wait_until_written()
                self.prove()
                self._warm_up()
                self._prove_template()
                self.prove()
        except BaseException:
            self.stop()
            raise
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def healthy(self, timeout_s: float = 5.0) -> bool:
        try:
            return self.alive() and self._http.get("/health", timeout=timeout_s).is_success
        except httpx.HTTPError:
            return False

    @property
    def effective(self) -> Effective:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return judge(read(text), self.asked)

    def prove(self) -> None:
        """Raises NotProven if the log does not prove what was asked for.

        The message names each difference.
        """
        problems = self.effective.problems
        if problems:
            raise NotProven(
                f"The server of arm {self.arm.id} does not prove the requested configuration: "
                f"{'; '.join(problems)} (see {self.log})."
            )

    def erase(self, slot: int) -> None:
        """Empty the slot's cache, so that a trial starts without cached tokens."""
        answer = self._http.post(f"/slots/{slot}?action=erase", json={}, timeout=30)
        answer.raise_for_status()

    def stop(self) -> None:
        self._stopping.set()
        if self._process:
            if self.alive():
                self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._http.close()
        self._folder.cleanup()

    def _watch(self) -> None:
        """Kill a server that hangs, so that requests to it fail instead of waiting."""
        unhealthy = 0
        while self._process and not self._stopping.wait(WATCH_S):
            unhealthy = 0 if self.healthy() else unhealthy + 1
            if unhealthy == UNHEALTHY_MAX and not self._stopping.is_set():
                self._process.kill()

    def _wait_until_written(self) -> None:
        """Wait for the last lines of the start: a server may answer before it writes them."""
        until = time.monotonic() + WRITTEN_S
        while any(MISSING in problem for problem in self.effective.problems):
            if time.monotonic() > until:
                return
            time.sleep(0.1)

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + START_S
        while not self.healthy():
            if not self.alive():
                error = self._start_error()
                if USAGE.search(error):
                    raise NotProven(
                        f"The server of arm {self.arm.id} rejects its flags: {error}; "
                        "change the arm's flags."
                    )
                raise ServerFailed(f"llama-server ended while starting: {error}")
            if time.monotonic() > deadline:
                raise ServerFailed(f"llama-server is not healthy after {START_S:.0f} s")
            time.sleep(0.1)

    def _warm_up(self) -> None:
        """Decode a few tokens, because llama.cpp warns about kernels at the first decode."""
        body = {"prompt": "def f(x):", "n_predict": 4, "temperature": 0, "id_slot": 0}
        try:
            self._http.post("/completion", json=body, timeout=START_S).raise_for_status()
            self.erase(0)
        except httpx.HTTPError as error:
            raise ServerFailed(f"the warm-up decode failed: {error}") from None

    def _prove_template(self) -> None:
        """Raises NotProven if the chat template leaves out the text of a user message."""
        text = "kvci-asks-whether-this-is-read"
        body = {"messages": [{"role": "user", "content": text}]}
        try:
            answer = self._http.post("/apply-template", json=body, timeout=30)
            prompt = str(answer.raise_for_status().json().get("prompt"))
        except (httpx.HTTPError, ValueError) as error:
            raise ServerFailed(f"the chat template could not be tested: {error}") from None
        if text not in prompt:
            raise NotProven(
                f"The chat template of arm {self.arm.id} drops the text of messages: it renders "
                f"{prompt[:80]!r}; give the model's chat_template as Jinja text."
            )

    def _start_error(self) -> str:
        for path in (self.log, self.log.with_suffix(".out")):
            text = path.read_text(errors="replace") if path.exists() else ""
            if error := start_error(text):
                return error
        return f"no message (see {self.log})"
