"""Test the registry of action protocols, and how each protocol reads an answer."""

from pathlib import Path
from typing import Any, get_args

import pytest

from kvci.agent import protocol
from kvci.agent.ends import FormatError
from kvci.agent.protocol import PROTOCOLS, Fenced, ToolCalls
from kvci.spec import Spec


def bash(command: str) -> str:
    return f"I think.\n```bash\n{command}\n```\n"


def test_a_protocol_is_listed_in_every_place() -> None:
    names = set(PROTOCOLS)
    literal = set(get_args(Spec.model_fields["prompt"].annotation))
    prompts = {path.stem for path in Path(protocol.__file__).parent.glob("prompts/*.j2")}
    assert literal == names, "Spec.prompt (kvci/spec/specification.py) needs each name"
    assert prompts == names, "kvci/agent/prompts needs one NAME.j2 for each name of PROTOCOLS"


def test_fenced_takes_exactly_one_bash_block() -> None:
    assert Fenced().action({"content": bash("a\nb")}) == "a\nb"
    for bad in ("ls", bash("a") + bash("b"), "```python\nx\n```"):
        with pytest.raises(FormatError):
            Fenced().action({"content": bad})


def test_tool_calls_take_exactly_one_bash_call() -> None:
    def call(name: str, arguments: str) -> dict[str, Any]:
        return {"tool_calls": [{"id": "7", "function": {"name": name, "arguments": arguments}}]}

    good = call("bash", '{"command": " ls "}')
    assert ToolCalls().action(good) == "ls"
    assert ToolCalls().observation(good, "out")["tool_call_id"] == "7"
    for bad in (call("sh", '{"command": "x"}'), call("bash", "{"), call("bash", "[]"), {}):
        with pytest.raises(FormatError):
            ToolCalls().action(bad)
