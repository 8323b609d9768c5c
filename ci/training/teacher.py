"""Give a good agent's answers on an instance of the calibration suite, with some mistakes.

The teacher finds the function, reads its file, repairs the line, runs the function and the tests,
and submits. After a command with a name that does not exist, the teacher repeats the command with
the right name. After two such commands in a row, it gives up and submits. The teacher makes
mistakes so that the model sees how to continue after a mistake. The model does not learn to make
mistakes.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kvci.agent.client import Client
from kvci.agent.conversation import SUBMIT, Answer
from kvci.agent.loop import Place, converse
from kvci.agent.protocol import Message
from kvci.sandbox import Sandbox
from kvci.spec import Spec
from kvci.tasks.calibration import SYLLABLES, TESTS, generate, split_of
from kvci.tasks.instance import Instance

ISSUE = re.compile(r"(\w+)\((.*)\)(?: in (\w+\.py))? gives the wrong result\.\n")
HUNK = re.compile(r"^@@ -(\d+)", re.MULTILINE)
SPEC = Spec.model_validate(
    {"model": {"name": "teacher", "path": "none"}, "arms": ["f16/f16"], "dataset": "calibration"}
)
"""The specification with the prompt, protocol and limits of the training conversations."""
REPAIRED, GIVEN_UP, WRONG_LINE = 0.25, 0.08, 0.08
"""Shares of the conversations with a mistake. REPAIRED: one wrong name, which the teacher repairs.
GIVEN_UP: two wrong names in a row. WRONG_LINE: a wrong line, which the teacher submits, because no
output shows that the line is wrong."""
FUNCTIONS_MAX = 48
FILES_MAX = 4


@dataclass(frozen=True)
class Turn:
    """One answer of the teacher. If it is a mistake, the model does not learn to say it."""

    command: str
    mistake: bool = False


@dataclass(frozen=True)
class _Repair:
    """The repair of one instance.

    The file and the lines come from the gold patch. All other fields come from the issue.
    """

    function: str
    arguments: str
    names_file: bool
    """True if the issue names the file."""
    file: str
    line: int
    fixed: str
    broken: str

    def find(self, function: str) -> str:
        return f'grep -Hn "def {function}(" *.py'

    def read(self, file: str) -> str:
        return f"cat -n {file}"

    def edit(self, file: str, text: str) -> str:
        return f"sed -i '{self.line}c\\{text}' {file}"

    def check(self) -> str:
        module = self.file.removesuffix(".py")
        call = f"from {module} import {self.function}; print({self.function}({self.arguments}))"
        return f"python3 -c '{call}' 2>&1 | tail -n 1; python3 {TESTS} 2>&1 | tail -n 1"


def _repair(instance: Instance) -> _Repair:
    row = instance.row
    issue = ISSUE.match(row.problem_statement)
    path = re.search(r"^\+\+\+ b/(\S+)", row.patch, re.MULTILINE)
    hunk = HUNK.search(row.patch)
    assert issue and path and hunk
    function, arguments, file = issue.groups()
    lines = row.patch[hunk.end() :].splitlines()[1:]
    removed = next(number for number, line in enumerate(lines) if line.startswith("-"))
    fixed = next(line[1:] for line in lines if line.startswith("+"))
    number = int(hunk[1]) + removed
    return _Repair(function, arguments, bool(file), path[1], number, fixed, lines[removed][1:])


def answers(instance: Instance, rng: random.Random | None = None) -> list[Turn]:
    """Return the teacher's answers. They have mistakes that `rng` draws; without `rng`, none."""
    repair = _repair(instance)
    steps: list[tuple[Callable[[str], str], str]] = [
        (repair.read, repair.file),
        (lambda file: repair.edit(file, repair.fixed), repair.file),
    ]
    if not repair.names_file:
        steps.insert(0, (repair.find, repair.function))
    right = [Turn(command(name)) for command, name in steps]
    end = [Turn(repair.check()), Turn(SUBMIT)]
    if rng is None or (chance := rng.random()) >= REPAIRED + GIVEN_UP + WRONG_LINE:
        return [*right, *end]
    if chance < WRONG_LINE:
        wrong = Turn(repair.edit(repair.file, _wrong_line(repair, rng)), mistake=True)
        return [*right[:-1], wrong, *end]
    at = rng.randrange(len(steps))
    command, name = steps[at]
    if chance < WRONG_LINE + GIVEN_UP:
        twice = [Turn(command(_wrong_name(name, instance, rng)), mistake=True) for _ in range(2)]
        return [*right[:at], *twice, Turn(SUBMIT)]
    once = Turn(command(_wrong_name(name, instance, rng)), mistake=True)
    return [*right[:at], once, *right[at:], *end]


def _wrong_name(name: str, instance: Instance, rng: random.Random) -> str:
    """Return a name that differs in one syllable and does not exist in the files.

    The name also does not belong to the test split.
    """
    text = "".join(instance.files.values()) + "".join(instance.files)
    while True:
        stem, dot, end = name.partition(".")
        parts = [stem[at : at + 2] for at in range(0, len(stem), 2)]
        parts[rng.randrange(len(parts))] = rng.choice(SYLLABLES)
        changed = "".join(parts)
        if changed not in text and split_of(changed) == "train":
            return f"{changed}{dot}{end}"


def _wrong_line(repair: _Repair, rng: random.Random) -> str:
    """Return a wrong line that runs: the right line with another number, or the broken line."""
    numbers = list(re.finditer(r"\d+", repair.fixed))
    if not numbers or rng.random() < 0.5:
        return repair.broken
    number = rng.choice(numbers)
    other = int(number[0]) + rng.choice((1, 2, 10))
    return f"{repair.fixed[: number.start()]}{other}{repair.fixed[number.end() :]}"


class Teacher(Client):
    """A client without a server. It answers one command after another, whatever the request."""

    def __init__(self, turns: list[Turn]) -> None:
        self._remaining = list(turns)
        self.messages: list[Message] = []
        """All messages of the conversation until now."""

    def ask(self, request: dict[str, object], timeout_s: float) -> Answer:
        messages = request["messages"]
        assert isinstance(messages, list)
        command = self._remaining.pop(0).command
        answer = {"role": "assistant", "content": f"```bash\n{command}\n```"}
        self.messages = [*messages, answer]
        return Answer(answer, cut=False, prompt_tokens=0, answer_tokens=0, timings={})


def conversation(instance: Instance, sandbox: Sandbox, turns: list[Turn]) -> list[Message]:
    """Run the agent's own loop with the teacher as its model, and return the messages."""
    teacher = Teacher(turns)
    place = Place(teacher, sandbox, 0, Path("/dev/null"))
    converse(SPEC, instance.row.problem_statement, instance.row.instance_id, 0, place)
    return teacher.messages


def lesson(seed: int) -> tuple[Instance, list[Turn]]:
    """Return a training instance and the teacher's answers; small instances are more frequent."""
    rng = random.Random(f"kvci training {seed}")
    functions = round(2 * (FUNCTIONS_MAX / 2) ** rng.random())
    instance = generate("train", seed, functions, rng.randint(1, min(FILES_MAX, functions)))
    return instance, answers(instance, rng)
