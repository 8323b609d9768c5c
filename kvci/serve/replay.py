"""The replay engine: a server with llama-server's API that answers from a script.

Tests use this engine if they must know the outcome. Its trials are unverified and never become a
row. Run it as `python -m kvci.serve.replay SCRIPT FLAGS`. From the flags, it reads only --port.
"""

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

from kvci.files import Document

OVERFLOW = (
    "request (5002 tokens) exceeds the available context size (2048 tokens), try increasing it"
)
"""The message that llama-server itself sends."""


class Reply(Document):
    """One answer of a script: a text or a fault."""

    text: str = ""
    fault: Literal["", "cut", "overflow", "die", "error"] = ""


class Script(Document):
    """Instance id -> the answers for it. All later requests get the last answer again."""

    answers: dict[str, tuple[Reply, ...]]
    turn_s: float = 0.0
    """Seconds that the server waits before each answer."""


class Replay(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, script: Script, port: int) -> None:
        self.script = script
        super().__init__(("127.0.0.1", port), Handler)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    """With Nagle's algorithm, the body would wait 40 ms until the header is acknowledged."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.reply(200, {"status": "ok"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        if self.path.startswith("/v1/chat/completions"):
            self._chat(body)
        else:
            self.reply(200, {})

    def _chat(self, body: dict[str, Any]) -> None:
        """Answer a chat request.

        The number of answers in the conversation selects the next answer, so the server keeps no
        state.
        """
        assert isinstance(self.server, Replay)
        time.sleep(self.server.script.turn_s)
        replies = self.server.script.answers[body["user"]]
        answered = sum(message["role"] == "assistant" for message in body["messages"])
        reply = replies[min(answered, len(replies) - 1)]
        if reply.fault == "die":
            os._exit(1)
        if reply.fault == "error":
            self.reply(500, {"error": {"code": 500, "message": "broken by the script"}})
        elif reply.fault == "overflow":
            error = {"code": 400, "type": "exceed_context_size_error", "message": OVERFLOW}
            self.reply(400, {"error": error})
        else:
            self.reply(200, _completion(body, reply))

    def reply(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _completion(body: dict[str, Any], reply: Reply) -> dict[str, Any]:
    """Return a completion. Four characters count as one token.

    A cut answer has as many tokens as the limit of the request.
    """
    cut, limit = reply.fault == "cut", body["max_tokens"]
    prompt = sum(len(message["content"]) for message in body["messages"]) // 4
    return completion(
        reply.text, cut, prompt, limit if cut else min(len(reply.text) // 4 + 1, limit)
    )


def completion(text: str, cut: bool, prompt_tokens: int, answer_tokens: int) -> dict[str, Any]:
    """Return a chat completion in the form that llama-server writes."""
    message = {"role": "assistant", "content": text}
    return {
        "id": "replay",
        "object": "chat.completion",
        "created": 0,
        "model": "replay",
        "choices": [{"index": 0, "message": message, "finish_reason": "length" if cut else "stop"}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": answer_tokens,
            "total_tokens": prompt_tokens + answer_tokens,
        },
        "timings": {"prompt_n": prompt_tokens, "predicted_n": answer_tokens},
    }


def main() -> None:
    script, flags = sys.argv[1], sys.argv[2:]
    port = int(flags[flags.index("--port") + 1])
    Replay(Script.read(Path(script)), port).serve_forever()


if __name__ == "__main__":
    main()
