"""The action protocols: how the model writes an action, and how it reads an observation.

PROTOCOLS is their registry. To add a protocol, write a class, a line in PROTOCOLS, a prompt
`prompts/NAME.j2`, and the name in `Spec.prompt` (kvci/spec/specification.py).
"""

import json
import re
from typing import Any, Protocol

from kvci.agent.ends import FormatError

Message = dict[str, Any]
FENCE = re.compile(r"^```bash[ \t]*\n(.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE)
BASH: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "bash",
        "description": "Run one bash command in the repository.",
        "parameters": {
            "type": "object",
            "properties": {"command": {"type": "string"}},
            "required": ["command"],
        },
    },
}


class ActionProtocol(Protocol):
    tools: list[dict[str, Any]]
    """The OpenAI tool definitions in every request; empty if actions are written as text."""

    def action(self, answer: Message) -> str:
        """Return the one command of an answer.

        Raises FormatError if the answer does not contain exactly one command.
        """

    def observation(self, answer: Message, text: str) -> Message:
        """Return the message that shows the model the command's output, or an error."""


class Fenced:
    """The protocol in which an action is exactly one fenced bash block in the answer's text."""

    tools: list[dict[str, Any]] = []  # noqa: RUF012

    def action(self, answer: Message) -> str:
        found = FENCE.findall(answer.get("content") or "")
        if len(found) != 1:
            raise FormatError(f"Write exactly one ```bash block; your answer had {len(found)}.")
        return str(found[0]).strip()

    def observation(self, answer: Message, text: str) -> Message:
        return {"role": "user", "content": text}


class ToolCalls:
    """The protocol in which an action is exactly one call of the tool `bash`."""

    tools = [BASH]  # noqa: RUF012

    def action(self, answer: Message) -> str:
        calls = answer.get("tool_calls") or []
        if len(calls) != 1:
            raise FormatError(f"Call the tool bash exactly once; your answer had {len(calls)}.")
        function = calls[0]["function"]
        try:
            command = json.loads(function["arguments"])["command"]
        except (ValueError, KeyError, TypeError):
            command = None
        if function["name"] != "bash" or not isinstance(command, str):
            raise FormatError('Call bash with {"command": "..."}.')
        return command.strip()

    def observation(self, answer: Message, text: str) -> Message:
        calls = answer.get("tool_calls") or []
        if not calls:
            return {"role": "user", "content": text}
        return {"role": "tool", "tool_call_id": calls[0]["id"], "content": text}


PROTOCOLS: dict[str, ActionProtocol] = {
    "bash": Fenced(),
    "tools": ToolCalls(),
}
"""The protocol's name -> the protocol. The prompt's file has the same name."""
