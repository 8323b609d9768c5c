"""A server at a URL, which kvci did not start.

No log proves the server's configuration, so its trials never become a row.
"""

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
        """Check that the server answers. Raises ServerFailed if it does not."""
        if not self.healthy():
            raise ServerFailed(f"{self.url} does not answer")
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def healthy(self, timeout_s: float = 5.0) -> bool:
        """True if the server answers. A 404 counts as an answer: some servers have no /health."""
        try:
            return self._http.get("/health", timeout=timeout_s).status_code < 500
        except httpx.HTTPError:
            return False

    @property
    def effective(self) -> Effective:
        return judge(read(""), Expected())

    def erase(self, slot: int) -> None:
        """Do nothing, because other clients may use the slots."""
