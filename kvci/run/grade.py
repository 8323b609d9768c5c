"""Patches of others, or the gold ones, through kvci's grading."""

import json
import re
from pathlib import Path

from pydantic import ValidationError

from kvci.errors import UserError
from kvci.files import Document, first_problem
from kvci.grade import Graded
from kvci.run.grading import Grader
from kvci.run.sandboxes import Sandboxes, choose
from kvci.sandbox import Caps
from kvci.spec import Spec
from kvci.tasks.dataset import load


class Prediction(Document):
    """A line of a predictions file, as the harness takes it."""

    instance_id: str
    model_patch: str | None
    model_name_or_path: str = ""


def grade_patches(
    dataset: str, filter: str, predictions: Path | None, sandbox: str, test_s: float, out: Path
) -> dict[str, Graded]:
    """Instance id -> what grading said; without predictions, of the gold patches.

    Logs and patches lie in `out` by instance. Raises UserError.
    """
    instances = {instance.row.instance_id: instance for instance in load(dataset)}
    if predictions:
        patches = _read(predictions)
        unknown = sorted(patches.keys() - instances.keys())
        if unknown:
            raise UserError(f"{unknown[0]} of {predictions} is no instance of {dataset}.")
    else:
        patches = {name: instance.row.patch for name, instance in instances.items()}
    try:
        chosen = [name for name in instances if name in patches and re.search(filter, name)]
        asked = Spec.model_validate(
            {"model": {"name": "none", "path": "none"}, "arms": ["f16/f16"]}
            | {"dataset": dataset, "sandbox": sandbox, "test_s": test_s}
        )
    except re.error as error:
        raise UserError(f"--filter {filter} is not a regular expression: {error}.") from None
    except ValidationError as error:
        raise UserError(f"What to grade is not valid: {first_problem(error)}.") from None
    if not chosen:
        raise UserError(f"No instance of {dataset} is left to grade; widen --filter.")
    kind, _ = choose(asked, (instances[name] for name in chosen))
    scratch = out.resolve() / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    sandboxes = Sandboxes(kind, scratch, Caps(asked.memory_mib, asked.processes, asked.cpus))
    sandboxes.sweep()
    grader = Grader(sandboxes, asked.test_s)
    graded: dict[str, Graded] = {}
    try:
        futures = {
            name: grader.submit(
                instances[name],
                patches[name].encode(errors="surrogateescape"),
                out.resolve() / name,
                lambda _: None,
                None,
            )
            for name in chosen
        }
        for name, future in futures.items():
            graded[name] = future.result()
            graded[name].write(out.resolve() / name / "graded.json")
    finally:
        grader.close(wait=len(graded) == len(chosen))
        sandboxes.sweep(own=True)
    scratch.rmdir()
    return graded


def _read(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    for number, line in enumerate(lines, 1):
        try:
            one = Prediction.model_validate(json.loads(line))
        except ValueError as error:
            what = first_problem(error)
            raise UserError(f"Line {number} of {path} is no prediction: {what}.") from None
        if one.instance_id in found:
            raise UserError(f"{path} has {one.instance_id} twice; one patch an instance.")
        found[one.instance_id] = one.model_patch or ""
    return found
