"""The rerun's jobs: the run whose trials are repeated, wherever it ran."""

import json
import os
import tempfile
from pathlib import Path

from kvci.errors import UserError
from kvci.github import GitHub
from kvci.jobs.collect import collect
from kvci.jobs.inputs import MODELS, RerunInputs
from kvci.jobs.outputs import output, summary
from kvci.jobs.restore import fetch_all
from kvci.report.tables import inert, table
from kvci.run.experiment import folder_of
from kvci.run.rerun import rerun_spec
from kvci.rundir.parts import Run
from kvci.spec import Spec, without_model


def find(asked: RerunInputs, branch: str, before: Path, github: GitHub) -> None:
    """Put the evidence that the run's jobs left into `before`, for a machine that has it not."""
    count = fetch_all(github, asked.run, branch, before)
    output(before=json.dumps(bool(count)))
    what = [asked.classes or "", asked.filter or "", "what infrastructure ended" * asked.errors]
    left = f"{count} jobs left" if count else "No job left"
    cells = (
        ("run", f"`{asked.run}`"),
        ("trials", inert(", ".join(filter(None, what)))),
        ("taken from", f"{left} evidence of it; where a machine has more, that counts"),
    )
    head = f"**Run again of `{asked.run}`: {cells[1][1]}**"
    summary("\n".join([head, "", *table(("This rerun", ""), cells), ""]))


def repeat(asked: RerunInputs, out: str, run_id: str, before: Path) -> Spec:
    """What is to be run again, of the run's folder on this machine, or of its evidence in `before`
    if that has more of it; what is executed is this machine's and this repository's in any case.

    What an earlier attempt has chosen stays chosen, whatever the run has now. Raises UserError if
    there is neither.
    """
    begun, folder = (Run(folder_of(out, name, "1/1")) for name in (run_id, asked.run))
    if begun.exists:
        known = begun.spec
        if known.rerun and known.rerun.of == asked.run:
            return _of_here(known)
    with tempfile.TemporaryDirectory() as place:
        there = Path(place, "run")
        if before.is_dir():
            collect(before, there)
        here, elsewhere = len(folder.outcomes()), len(Run(there).outcomes())
        if here >= elsewhere:
            if not here:
                raise UserError(
                    f"{asked.run} is not below {out}, and no job of this branch left evidence of "
                    "it that is still there: rerun it on the machine that ran it."
                )
            there = folder.path
        return _of_here(rerun_spec(there, asked.classes, asked.filter, asked.errors))


def _of_here(spec: Spec) -> Spec:
    """With this machine's engine and mirror, and the repository's file of the model. Raises
    UserError if it has none."""
    for path in sorted(MODELS.glob("*.toml")):
        model = without_model({"model": str(path), "dataset": spec.dataset}).model
        if (model.name, model.weights) == (spec.model.name, spec.model.weights):
            mirror = os.environ.get("KVCI_MIRROR") or None
            engine = spec.without_places().engine
            return spec.model_copy(update={"engine": engine, "mirror": mirror, "model": model})
    raise UserError(
        f"No file of {MODELS} has the model {spec.model.name} {spec.model.weights}".rstrip()
        + "; add it there, or give kvci rerun the folder on the machine that ran it."
    )
