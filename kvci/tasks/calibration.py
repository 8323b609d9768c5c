"""The calibration suite: instances that are generated from a seed, as rows in the v5 format.

Each instance is a small Python repository with one bug. The instance has an issue text, tests of
all other functions, and the gold patch. It also has a test that fails because of the bug; only
grading has this test. No name of a function or file is in both the train split and the test split:
the hash of a name decides which split may use the name.
"""

import hashlib
import json
import random
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from kvci.errors import UserError
from kvci.tasks.bugs import BUGS, Bug
from kvci.tasks.instance import Instance
from kvci.tasks.row import Row

VERSION = "3"
COUNT_MAX = 10_000
REPO = "kvci/calibration"
"""The repository that all rows of the suite name."""
IMAGE = "kvci/calibration:1"
TESTS = "tests/test_all.py"
SYLLABLES = tuple(first + second for first in "bdfgklmnprstvz" for second in "aeiou")
SHADOWED = {"site", "time"}
"""Names of standard modules that Python has already loaded.

Python would not import a file with such a name.
"""
Split = Literal["train", "test"]


@dataclass(frozen=True)
class _Function:
    name: str
    bug: Bug
    constant: int
    module: str

    def source(self, broken: bool = False) -> str:
        return self.bug.source(self.name, self.constant, broken)

    def call(self, arguments: str, broken: bool = False) -> Any:
        return _call(self.bug, self.constant, arguments, broken)


@cache
def _call(bug: Bug, constant: int, arguments: str, broken: bool) -> Any:
    """Return the result of a call. kvci wrote the source, so this process may run it."""
    scope: dict[str, Any] = {}
    exec(bug.source("called", constant, broken), scope)
    return scope["called"](*eval(f"({arguments},)"))


def split_of(name: str) -> Split:
    """Return the split that may use a name."""
    return "test" if hashlib.sha256(name.encode()).digest()[0] % 4 == 0 else "train"


def _name(rng: random.Random, split: Split) -> str:
    while True:
        count = rng.choice((2, 3, 3))
        name = "".join(rng.choice(SYLLABLES) for _ in range(count))
        if split_of(name) == split and name not in SHADOWED:
            return name


def generate(split: Split, seed: int, functions: int = 8, files: int = 1) -> Instance:
    """Return one instance. The same arguments give the same bytes on every machine.

    Raises UserError if there are fewer functions than files.
    """
    if not 1 <= files <= functions:
        raise UserError(f"{functions} functions cannot fill {files} files; give more functions.")
    rng = random.Random(f"kvci calibration {VERSION} {split} {seed} {functions} {files}")
    names: list[str] = []
    while len(names) < functions + files:
        name = _name(rng, split)
        if name not in names:
            names.append(name)
    modules = [f"{name}.py" for name in names[functions:]]
    made = [
        _Function(name, rng.choice(BUGS), rng.randint(2, 20), modules[number % files])
        for number, name in enumerate(names[:functions])
    ]
    victim = rng.choice(made)
    shown = rng.choice(
        [call for call in victim.bug.calls if victim.call(call) != victim.call(call, True)]
    )
    base = {module: _module(made, module, victim) for module in modules}
    base[TESTS] = _tests([function for function in made if function is not victim])
    fixed = _module(made, victim.module, None)
    tests = _tests(made)
    row = Row(
        repo=REPO,
        instance_id=f"calibration__{split}-{functions}x{files}-{seed}",
        base_commit="HEAD",
        patch=_diff(victim.module, base[victim.module], fixed),
        test_patch=_diff(TESTS, base[TESTS], tests),
        problem_statement=_issue(victim, shown, named=rng.random() < 0.5),
        version=VERSION,
        FAIL_TO_PASS=(_test_id(victim),),
        PASS_TO_PASS=tuple(_test_id(function) for function in made if function is not victim),
        image=IMAGE,
        eval_script=_eval_script(tests),
        log_parser="parse_log_pytest",
        eval_type="pass_and_fail",
    )
    return Instance(row, base, victim.bug.kind)


def _module(made: list[_Function], module: str, victim: _Function | None) -> str:
    sources = (f.source(broken=f is victim) for f in made if f.module == module)
    return "\n\n".join(sources)


def _issue(victim: _Function, call: str, named: bool) -> str:
    where = f" in {victim.module}" if named else ""
    return (
        f"{victim.name}({call}){where} gives the wrong result.\n"
        f"Expected: {victim.call(call)!r}\nGot: {victim.call(call, True)!r}\n"
    )


def _test_id(function: _Function) -> str:
    return f"{TESTS}::test_{function.name}"


def _tests(made: list[_Function]) -> str:
    """Return a test module that runs its own tests, so that it needs no test runner."""
    tests = []
    for function in made:
        checks = "".join(
            f"    assert {function.name}({call}) == {function.call(call)!r}\n"
            for call in function.bug.calls
        )
        module = function.module.removesuffix(".py")
        load = f"    from {module} import {function.name}\n\n"
        tests.append(f"def test_{function.name}():\n{load}{checks}")
    runner = (
        'if __name__ == "__main__":\n'
        "    import sys\n    import traceback\n\n"
        '    sys.path.insert(0, ".")\n    count = failed = 0\n'
        "    for name, test in list(globals().items()):\n"
        '        if name.startswith("test_"):\n            count += 1\n'
        "            try:\n                test()\n"
        f'                print("PASSED {TESTS}::" + name)\n'
        "            except BaseException:\n                failed += 1\n"
        "                traceback.print_exc()\n"
        f'                print("FAILED {TESTS}::" + name)\n'
        '    print(f"{count} tests, {failed} failed")\n    sys.exit(bool(failed))\n'
    )
    return "\n\n".join([*tests, runner])


def _eval_script(tests: str) -> str:
    """Return the eval script.

    The script writes the tests again before it runs them. A model that edits the tests gains
    nothing.
    """
    return (
        "#!/bin/bash\nset -uo pipefail\ncd /testbed\nmkdir -p tests\n"
        f"cat > {TESTS} <<'EOF_TESTS'\n{tests}EOF_TESTS\n"
        "echo '>>>>> Start Test Output'\n"
        f"python3 -B {TESTS} 2>&1\nSWEBENCH_TEST_EXIT_CODE=$?\n"
        "echo '>>>>> End Test Output'\n"
        'echo ">>>>> Test Exit Code: $SWEBENCH_TEST_EXIT_CODE"\n'
    )


def _diff(path: str, old: str, new: str) -> str:
    """Return a git patch with one hunk, from the first to the last line that differs."""
    before, after = old.splitlines(), new.splitlines()
    same = [a == b for a, b in zip(before, after, strict=False)]
    first = same.index(False) if False in same else len(same)
    left = min(len(before), len(after)) - first
    tail = [a == b for a, b in zip(before[::-1], after[::-1], strict=False)][:left]
    last = tail.index(False) if False in tail else len(tail)
    start, above = max(0, first - 3), before[max(0, first - 3) : first]
    removed, added = before[first : len(before) - last], after[first : len(after) - last]
    below = before[len(before) - last :][:3]
    counts = (len(above) + len(below) + len(part) for part in (removed, added))
    lines = [f"@@ -{start + 1},{next(counts)} +{start + 1},{next(counts)} @@"]
    for mark, part in ((" ", above), ("-", removed), ("+", added), (" ", below)):
        lines += [mark + line for line in part]
    return f"diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n" + "".join(
        f"{line}\n" for line in lines
    )


def suite(text: str) -> list[Instance]:
    """Return the instances of a name like `calibration:split=test,functions=8,files=1,count=20`.

    Raises UserError if the name has an unknown option or a value that is not valid.
    """
    defaults = {"split": "test", "functions": 8, "files": 1, "count": 20, "first": 0}
    asked: dict[str, Any] = dict(defaults)
    for part in filter(None, text.removeprefix("calibration").removeprefix(":").split(",")):
        key, _, value = part.partition("=")
        number = key in asked and key != "split" and value.isdecimal()
        if not number and part not in ("split=train", "split=test"):
            raise UserError(
                f"'{part}' is not an option of the calibration suite; give some of these options, "
                f"which are shown with their defaults: {json.dumps(defaults)}."
            )
        asked[key] = int(value) if number else value
    if asked["count"] > COUNT_MAX:
        raise UserError(
            f"The calibration suite gives at most {COUNT_MAX} instances at a time; lower count."
        )
    seeds = range(asked["first"], asked["first"] + asked["count"])
    return [generate(asked["split"], seed, asked["functions"], asked["files"]) for seed in seeds]
