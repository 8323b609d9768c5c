"""What a good agent says on an instance of the calibration suite, and what it does about mistakes.

It finds the function, reads its file, mends the line, runs the function and the tests, and submits.
A command that named something that is not there is said again, rightly; after the second in a row
it gives up and submits. Mistakes are made here, so that the model sees what follows them, and are
not what it learns to say.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kvci.agent.client import Answer, Client
from kvci.agent.loop import SUBMIT, Place, converse
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
"""What it says of the prompt, the protocol and the limits is what the model is trained on."""
MISTAKEN, GIVEN_UP, MISWRITTEN = 0.25, 0.08, 0.08
"""Of the training's conversations: with one mistake that is mended, with two in a row, with a wrong
line, which the teacher submits for all that it sees of it."""
FUNCTIONS_MAX = 48
FILES_MAX = 4


@dataclass(frozen=True)
class Turn:
    command: str
    mistake: bool = False


@dataclass(frozen=True)
class _Lesson:
    """The place and the right line are taken from the gold patch, all else from the issue."""

    function: str
    arguments: str
    named: bool
    file: str
    line: int
    right: str
    wrong: str

    def find(self, function: str) -> str:
        return f'grep -Hn "def {function}(" *.py'

    def read(self, file: str) -> str:
        return f"cat -n {file}"

    def mend(self, file: str, text: str) -> str:
        return f"sed -i '{self.line}c\\{text}' {file}"

    def check(self) -> str:
        module = self.file.removesuffix(".py")
        call = f"from {module} import {self.function}; print({self.function}({self.arguments}))"
        return f"python3 -c '{call}' 2>&1 | tail -n 1; python3 {TESTS} 2>&1 | tail -n 1"


def _task(instance: Instance) -> _Lesson:
    row = instance.row
    issue = ISSUE.match(row.problem_statement)
    path = re.search(r"^\+\+\+ b/(\S+)", row.patch, re.MULTILINE)
    hunk = HUNK.search(row.patch)
    assert issue and path and hunk
    function, arguments, named = issue.groups()
    lines = row.patch[hunk.end() :].splitlines()[1:]
    gone = next(number for number, line in enumerate(lines) if line.startswith("-"))
    right = next(line[1:] for line in lines if line.startswith("+"))
    number = int(hunk[1]) + gone
    return _Lesson(function, arguments, bool(named), path[1], number, right, lines[gone][1:])


def turns(instance: Instance, rng: random.Random | None = None) -> list[Turn]:
    """Without a mistake, or with those that `rng` makes."""
    task = _task(instance)
    steps: list[tuple[Callable[[str], str], str]] = [
        (task.read, task.file),
        (lambda file: task.mend(file, task.right), task.file),
    ]
    if not task.named:
        steps.insert(0, (task.find, task.function))
    said = [Turn(make(name)) for make, name in steps]
    ended = [Turn(task.check()), Turn(SUBMIT)]
    if rng is None or (chance := rng.random()) >= MISTAKEN + GIVEN_UP + MISWRITTEN:
        return [*said, *ended]
    if chance < MISWRITTEN:
        wrong = Turn(task.mend(task.file, _miswritten(task, rng)), mistake=True)
        return [*said[:-1], wrong, *ended]
    at = rng.randrange(len(steps))
    make, name = steps[at]
    if chance < MISWRITTEN + GIVEN_UP:
        twice = [Turn(make(_misnamed(name, instance, rng)), mistake=True) for _ in range(2)]
        return [*said[:at], *twice, Turn(SUBMIT)]
    once = Turn(make(_misnamed(name, instance, rng)), mistake=True)
    return [*said[:at], once, *said[at:], *ended]


def _misnamed(name: str, instance: Instance, rng: random.Random) -> str:
    """The name of nothing that is there, a syllable away, and none that the test split may use."""
    text = "".join(instance.files.values()) + "".join(instance.files)
    while True:
        stem, dot, end = name.partition(".")
        parts = [stem[at : at + 2] for at in range(0, len(stem), 2)]
        parts[rng.randrange(len(parts))] = rng.choice(SYLLABLES)
        made = "".join(parts)
        if made not in text and split_of(made) == "train":
            return f"{made}{dot}{end}"


def _miswritten(task: _Lesson, rng: random.Random) -> str:
    """A line that runs and is wrong: another number, or what was there."""
    numbers = list(re.finditer(r"\d+", task.right))
    if not numbers or rng.random() < 0.5:
        return task.wrong
    number = rng.choice(numbers)
    other = int(number[0]) + rng.choice((1, 2, 10))
    return f"{task.right[: number.start()]}{other}{task.right[number.end() :]}"


class Teacher(Client):
    """In the place of a server: it says one command after the other, whatever it is told."""

    def __init__(self, said: list[Turn]) -> None:
        self._left = list(said)
        self.heard: list[Message] = []

    def ask(self, request: dict[str, object], timeout_s: float) -> Answer:
        messages = request["messages"]
        assert isinstance(messages, list)
        said = {"role": "assistant", "content": f"```bash\n{self._left.pop(0).command}\n```"}
        self.heard = [*messages, said]
        return Answer(said, cut=False, prompt_tokens=0, answer_tokens=0, timings={})


def conversation(instance: Instance, sandbox: Sandbox, said: list[Turn]) -> list[Message]:
    """The agent's own loop, with the teacher as its model: the messages as a server sees them."""
    teacher = Teacher(said)
    place = Place(teacher, sandbox, 0, Path("/dev/null"))
    converse(SPEC, instance.row.problem_statement, instance.row.instance_id, 0, place)
    return teacher.heard


def lesson(seed: int) -> tuple[Instance, list[Turn]]:
    """The training instance of a seed, and what is said of it; small ones are more frequent."""
    rng = random.Random(f"kvci training {seed}")
    functions = round(2 * (FUNCTIONS_MAX / 2) ** rng.random())
    one = generate("train", seed, functions, rng.randint(1, min(FILES_MAX, functions)))
    return one, turns(one, rng)
