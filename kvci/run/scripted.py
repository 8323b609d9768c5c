"""Run scripted answers with known classes. This tests everything except the model."""

from pathlib import Path

from kvci.console import Terminal
from kvci.errors import UserError
from kvci.run.experiment import run
from kvci.rundir.directory import RunDirectory
from kvci.spec import load
from kvci.tasks.calibration import suite
from kvci.tasks.script import EXPECTED, script
from kvci.taxonomy import titled

DATASET = f"calibration:split=test,functions=4,count={len(EXPECTED)}"


def run_scripted(out: Path, run_id: str, sandbox: str = "auto") -> bool:
    """Run every scripted behaviour under two arms.

    Return True if each trial has the expected class. Raises UserError if the run is not complete.
    """
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
    console = Terminal(soft_wrap=True)
    folder, summary = run(spec, run_id, console)
    wrong = [
        f"{o.arm} {o.instance}: {titled(o.cls)}, expected {titled(expected[o.instance])} "
        f"({o.why}; {o.detail})"
        for o in RunDirectory(folder).outcomes()
        if o.cls != expected[o.instance]
    ]
    for line in wrong:
        console.print(line)
    if not summary.complete:
        raise UserError(f"The scripted run in {folder} is not complete; repeat the command.")
    unexpected = f"{len(wrong)} trials have an unexpected class."
    console.print(unexpected if wrong else "Every trial has the expected class.")
    return not wrong
