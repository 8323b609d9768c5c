"""Stand-ins for HTTP services."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer


class Quiet(BaseHTTPRequestHandler):
    """Of a server that keeps its connections and says nothing of them."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    """Else each answer's body waits 40 ms for the receipt of its header."""

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def listening(server: HTTPServer) -> Iterator[None]:
    """On a thread of its own; without its own pace it takes half a second to end."""
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def answer(
    handler: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    headers: dict[str, str] | None = None,
    cut: bool = False,
) -> None:
    """Send it whole, or cut the connection in the middle of its body."""
    handler.send_response(status)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body[: len(body) // 2] if cut else body)
    if cut:
        handler.close_connection = True
        handler.connection.close()
