"""A server at a URL that kvci did not start; no log proves what it does, so it gives no row."""

from pathlib import Path
from typing import Self

import httpx

from kvci.serve.effective import Effective, read
from kvci.serve.proof import Expected, judge
from kvci.serve.server import Server, ServerFailed
from kvci.spec import Arm, Spec


class Remote(Server):
    """A Server that kvci neither starts nor stops."""

    def __init__(self, spec: Spec, arm: Arm, log: Path) -> None:
        self.arm, self.log = arm, log
        self.url = spec.engine.rstrip("/").removesuffix("/v1")
        self._http = httpx.Client(base_url=self.url)

    def __enter__(self) -> Self:
        """Raises ServerFailed if the server does not answer."""
        if not self.healthy():
            raise ServerFailed(f"{self.url} does not answer")
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def healthy(self, timeout_s: float = 5.0) -> bool:
        """Whether the server answers; a 404 counts, because not every server has /health."""
        try:
            return self._http.get("/health", timeout=timeout_s).status_code < 500
        except httpx.HTTPError:
            return False

    @property
    def effective(self) -> Effective:
        return judge(read(""), Expected())

    def erase(self, slot: int) -> None:
        """Do nothing, because the slots belong to others."""
