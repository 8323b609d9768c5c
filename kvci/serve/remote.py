"""Someone else's server at a URL, for trying: nothing proves what it does, so it gives no row."""

from pathlib import Path
from typing import Self

import httpx

from kvci.serve.effective import Effective, read
from kvci.serve.proof import Expected, judge
from kvci.serve.server import Server, ServerFailed
from kvci.spec import Arm, Spec


class Remote(Server):
    """The server's interface over a URL: it is neither started nor stopped."""

    def __init__(self, spec: Spec, arm: Arm, log: Path) -> None:
        self.arm, self.log = arm, log
        self.url = spec.engine.rstrip("/").removesuffix("/v1")
        self._http = httpx.Client(base_url=self.url)

    def __enter__(self) -> Self:
        """Raises ServerFailed if it does not answer."""
        if not self.healthy():
            raise ServerFailed(f"{self.url} does not answer")
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def healthy(self, timeout_s: float = 5.0) -> bool:
        """Not every server has /health; one that answers at all is there."""
        try:
            return self._http.get("/health", timeout=timeout_s).status_code < 500
        except httpx.HTTPError:
            return False

    @property
    def effective(self) -> Effective:
        return judge(read(""), Expected())

    def erase(self, slot: int) -> None:
        """Its slots are not ours."""
