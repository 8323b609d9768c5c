"""A run whose table is known beforehand: the test of everything but the model."""

from pathlib import Path

from rich.console import Console

from kvci.errors import UserError
from kvci.run.experiment import run
from kvci.rundir.directory import RunDirectory
from kvci.spec import load
from kvci.tasks.calibration import suite
from kvci.tasks.script import EXPECTED, script

DATASET = f"calibration:split=test,functions=4,count={len(EXPECTED)}"


def run_scripted(out: Path, run_id: str, sandbox: str = "auto") -> bool:
    """Run every behaviour under two arms; True if each trial got the class it must get."""
    answers, expected = script(suite(DATASET))
    path = out / f"{run_id}.script.json"
    answers.write(path)
    spec = load(
        None,
        {
            "model": {"name": "scripted", "package": "kvci.demo.model:plain"},
            "arms": ["f16/f16", "q8_0/q8_0"],
            "dataset": DATASET,
            "engine": f"replay:{path}",
            "context": 4096,
            "slots": 2,
            "max_steps": 8,
            "max_tokens": 200,
            "test_s": 2.0,
            "sandbox": sandbox,
            "out": str(out),
        },
    )
    console = Console(soft_wrap=True)
    folder, summary = run(spec, run_id, console)
    wrong = [
        f"{o.arm} {o.instance}: {o.cls}, not {expected[o.instance]} ({o.why}; {o.detail})"
        for o in RunDirectory(folder).outcomes()
        if o.cls != expected[o.instance]
    ]
    for line in wrong:
        console.print(line)
    if not summary.complete:
        raise UserError(f"The scripted run in {folder} is not complete; run it again.")
    console.print("Not the known table." if wrong else "The known table, exactly.")
    return not wrong
