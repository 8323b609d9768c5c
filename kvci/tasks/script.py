"""Scripts for the replay engine. Each behaviour in a script has a known class."""

from collections.abc import Sequence

from kvci.serve.replay import Reply, Script
from kvci.tasks.instance import Instance
from kvci.tasks.row import patched_files

EXPECTED: dict[str, str] = {
    "gold": "OK",
    "wrong_edit": "A11a",
    "empty": "A6",
    "loop": "A2",
    "overflow": "A3",
    "runaway": "A1",
    "malformed": "A5",
    "breaks": "A11b",
    "hangs": "A10",
    "kills": "A11a",
    "syntax": "A8",
    "elsewhere": "A9",
    "steps": "A4",
    "server_dies": "I2",
}
"""Behaviour -> the class that its trials must get."""


def _bash(command: str) -> Reply:
    return Reply(text=f"```bash\n{command}\n```")


def behave(instance: Instance, behaviour: str) -> tuple[Reply, ...]:
    """Return the answers that show one behaviour on one instance."""
    (file,) = patched_files(instance.row.patch)
    gold = _bash(f"git apply - <<'EOF'\n{instance.row.patch}EOF")
    other = instance.row.PASS_TO_PASS[0].partition("::test_")[2]
    other_file = next(name for name, text in instance.files.items() if f"def {other}(" in text)
    submit = _bash("submit")
    steps = tuple(_bash(f"echo {number}") for number in range(64))
    scripts: dict[str, tuple[Reply, ...]] = {
        "gold": (_bash(f"cat -n {file}"), gold, submit),
        "wrong_edit": (_bash(f"echo '# seen' >> {file}"), submit),
        "empty": (_bash("ls"), submit),
        "loop": (_bash("ls"),),
        "overflow": (_bash(f"cat {file}"), Reply(fault="overflow")),
        "runaway": (Reply(text="and so on", fault="cut"),),
        "malformed": (Reply(text="I would rather not."),),
        "breaks": (gold, _bash(f"echo '{other} = None' >> {other_file}"), submit),
        "hangs": (_bash(f"echo 'while True: pass' >> {file}"), submit),
        "kills": (_bash(f"echo 'import os; os.kill(os.getppid(), 9)' >> {file}"), submit),
        "syntax": (_bash(f"echo 'def (:' >> {file}"), submit),
        "elsewhere": (_bash("echo 'x = 1' > elsewhere.py"), submit),
        "steps": steps,
        "server_dies": (_bash("ls"), Reply(fault="die")),
    }
    return scripts[behaviour]


def script(instances: Sequence[Instance]) -> tuple[Script, dict[str, str]]:
    """Return a script, and the expected class of each instance (instance id -> class).

    The first instance shows the first behaviour, the second instance the second, and so on.
    """
    names = list(EXPECTED)
    given = {i.row.instance_id: names[n % len(names)] for n, i in enumerate(instances)}
    answers = {i.row.instance_id: behave(i, given[i.row.instance_id]) for i in instances}
    return Script(answers=answers), {name: EXPECTED[given[name]] for name in given}
