"""The jobs of rerun.yml: find the run, on any machine, and repeat some of its trials."""

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
from kvci.report.tables import table
from kvci.run.experiment import folder_of
from kvci.run.rerun import rerun_spec
from kvci.rundir.parts import Run
from kvci.spec import Spec, without_model
from kvci.text import code, markdown
from kvci.units import counted


def find(asked: RerunInputs, branch: str, before: Path, github: GitHub) -> None:
    """Put the evidence of the run's jobs into `before`, for a machine that lacks the run."""
    count = fetch_all(github, asked.run, branch, before)
    output(before=json.dumps(bool(count)))
    chosen = [asked.classes or "", asked.filter or "", "ended by infrastructure" * asked.errors]
    source = f"artifacts of {counted(count, 'job')}" if count else "no artifact was found"
    cells = (
        ("run", code(asked.run)),
        ("trials", markdown(", ".join(filter(None, chosen)))),
        (
            "evidence",
            f"{source}; if the runner has more trials of the run, the rerun uses its folder",
        ),
    )
    head = f"**Rerun of {cells[0][1]}: {cells[1][1]}**"
    summary("\n".join([head, "", *table(("This rerun", ""), cells), ""]))


def repeat(asked: RerunInputs, out: str, run_id: str, before: Path) -> Spec:
    """Return the specification of the rerun.

    Its trials come from the run's folder on this machine. If the evidence in `before` has more
    trials, they come from the evidence. The engine always comes from this machine, and the model
    from this repository, because evidence is untrusted. A second attempt repeats the trials that
    the first attempt chose, even if the run has more trials now. Raises UserError if there is
    neither a folder nor evidence, or if the repository does not have the model.
    """
    attempt, local = (Run(folder_of(out, name, "1/1")) for name in (run_id, asked.run))
    if attempt.exists:
        chosen = attempt.spec
        if chosen.rerun and chosen.rerun.of == asked.run:
            return _with_local_settings(chosen)
    with tempfile.TemporaryDirectory() as place:
        source = Path(place, "run")
        if before.is_dir():
            collect(before, source)
        count, uploaded = len(local.outcomes()), len(Run(source).outcomes())
        if count >= uploaded:
            if not count:
                raise UserError(
                    f"{out} has no run {asked.run}, and this branch has no artifact of the run; "
                    "rerun it on the machine that ran it."
                )
            source = local.path
        return _with_local_settings(rerun_spec(source, asked.classes, asked.filter, asked.errors))


def _with_local_settings(spec: Spec) -> Spec:
    """Return the rerun with this machine's engine and mirror, and with the repository's model.

    Raises UserError if the repository has no file of this model.
    """
    for path in sorted(MODELS.glob("*.toml")):
        model = without_model({"model": str(path), "dataset": spec.dataset}).model
        if (model.name, model.weights) == (spec.model.name, spec.model.weights):
            mirror = os.environ.get("KVCI_MIRROR") or None
            engine = spec.without_places().engine
            return spec.model_copy(update={"engine": engine, "mirror": mirror, "model": model})
    raise UserError(
        f"No file in {MODELS} has the model {spec.model.name} {spec.model.weights}".rstrip()
        + "; add one, or use kvci rerun on the machine that ran it."
    )
