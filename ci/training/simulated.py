"""Run the teacher's commands on files in memory, with the output of a real sandbox.

A command takes 0.1 ms instead of tens of milliseconds. tests/training checks that the output equals
that of a real sandbox. Only the teacher's commands are understood, and only kvci's own generated
code is run.
"""

import re
from typing import Any

from kvci.sandbox import Limits, Result
from kvci.tasks.calibration import TESTS
from kvci.tasks.instance import Instance

GREP = re.compile(r'grep -Hn "(.+)" \*\.py')
READ = re.compile(r"cat -n (\S+)")
CHANGE = re.compile(r"sed -i '(\d+)c\\(.*)' (\S+)")
CHECK = re.compile(
    r"python3 -c 'from (\w+) import \w+; print\((.*)\)' 2>&1 \| tail -n 1; "
    rf"python3 {TESTS} 2>&1 \| tail -n 1"
)


class Simulated:
    """A simulated sandbox for one conversation."""

    def __init__(self, instance: Instance) -> None:
        self._lines = {name: text.splitlines() for name, text in instance.files.items()}

    def run(self, command: str, limits: Limits) -> Result:
        output, code = self._execute(command)
        return Result(output.encode(), code, False, 0, 0.0)

    def script(self, text: str, limits: Limits) -> Result:
        raise NotImplementedError

    def diff(self, exclude: tuple[str, ...] = ()) -> bytes:
        return b""

    def close(self) -> None:
        pass

    def _execute(self, command: str) -> tuple[str, int]:
        """Return output and exit code.

        Raises NotImplementedError if the command is not one of the teacher's commands.
        """
        if match := GREP.fullmatch(command):
            matches = "".join(
                f"{name}:{number}:{line}\n"
                for name in sorted(name for name in self._lines if "/" not in name)
                for number, line in enumerate(self._lines[name], 1)
                if match[1] in line
            )
            return matches, 0 if matches else 1
        if match := READ.fullmatch(command):
            if match[1] not in self._lines:
                return f"cat: {match[1]}: No such file or directory\n", 1
            numbered = enumerate(self._lines[match[1]], 1)
            return "".join(f"{number:6}\t{line}\n" for number, line in numbered), 0
        if match := CHANGE.fullmatch(command):
            if match[3] not in self._lines:
                return f"sed: can't read {match[3]}: No such file or directory\n", 2
            self._lines[match[3]][int(match[1]) - 1] = match[2]
            return "", 0
        if match := CHECK.fullmatch(command):
            tests = sum(line.startswith("def test_") for line in self._lines[TESTS])
            return f"{self._value(match[1], match[2])}\n{tests} tests, 0 failed\n", 0
        raise NotImplementedError(command)

    def _value(self, module: str, call: str) -> str:
        scope: dict[str, Any] = {}
        exec("\n".join(self._lines[f"{module}.py"]), scope)
        try:
            return str(eval(call, scope))
        except Exception as error:
            return f"{type(error).__name__}: {error}"
