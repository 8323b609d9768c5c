"""What a perfect agent says on an instance of the calibration suite."""

import re
from pathlib import Path

from kvci.agent.client import Answer, Client
from kvci.agent.loop import Place, converse
from kvci.agent.protocol import Message
from kvci.sandbox import Sandbox
from kvci.spec import Spec
from kvci.tasks.calibration import TESTS
from kvci.tasks.instance import Instance

ISSUE = re.compile(r"(\w+)\((.*)\)(?: in (\w+\.py))? gives the wrong result\.\n")
HUNK = re.compile(r"^@@ -(\d+)", re.MULTILINE)
SPEC = Spec.model_validate(
    {"model": {"name": "teacher", "path": "none"}, "arms": ["f16/f16"], "dataset": "calibration"}
)
"""What it says of the prompt, the protocol and the limits is what the model is trained on."""


def commands(instance: Instance) -> list[str]:
    """Find the function, read its file, mend the line, run it and the tests, submit.

    The place and the right line are taken from the gold patch, all else from the issue.
    """
    row = instance.row
    issue = ISSUE.match(row.problem_statement)
    path = re.search(r"^\+\+\+ b/(\S+)", row.patch, re.MULTILINE)
    assert issue and path
    name, arguments, named = issue.groups()
    number, text = _change(row.patch)
    module = path[1].removesuffix(".py")
    find = [] if named else [f'grep -n "def {name}(" *.py']
    return [
        *find,
        f"cat -n {path[1]}",
        f"sed -i '{number}c\\{text}' {path[1]}",
        f"python3 -c 'from {module} import {name}; print({name}({arguments}))' && "
        f"python3 {TESTS} | tail -n 1",
        "submit",
    ]


def _change(patch: str) -> tuple[int, str]:
    """The number and the new text of the one line that a gold patch changes."""
    hunk = HUNK.search(patch)
    assert hunk
    number = int(hunk[1])
    for line in patch[hunk.end() :].splitlines()[1:]:
        if line.startswith("+"):
            return number, line[1:]
        number += line.startswith(" ")
    raise AssertionError("a gold patch without a new line")


class Teacher(Client):
    """In the place of a server: it says one command after the other, whatever it is told."""

    def __init__(self, said: list[str]) -> None:
        self._left = list(said)
        self.heard: list[Message] = []

    def ask(self, request: dict[str, object], timeout_s: float) -> Answer:
        messages = request["messages"]
        assert isinstance(messages, list)
        said = {"role": "assistant", "content": f"```bash\n{self._left.pop(0)}\n```"}
        self.heard = [*messages, said]
        return Answer(said, cut=False, prompt_tokens=0, answer_tokens=0, timings={})


def conversation(instance: Instance, sandbox: Sandbox) -> list[Message]:
    """The agent's own loop, with the teacher as its model: the messages as a server sees them."""
    teacher = Teacher(commands(instance))
    place = Place(teacher, sandbox, 0, Path("/dev/null"))
    converse(SPEC, instance.row.problem_statement, instance.row.instance_id, 0, place)
    return teacher.heard
