"""Patches of others, or the gold ones, through kvci's grading."""

import json
import re
from pathlib import Path

from pydantic import ValidationError

from kvci.errors import UserError
from kvci.files import Document, first_problem
from kvci.grade import Graded
from kvci.run.directory import RunDirectory
from kvci.run.grading import Grader
from kvci.run.sandboxes import Kind, Sandboxes, choose
from kvci.run.stop import Stopped, stopping
from kvci.spec import Spec
from kvci.tasks.dataset import load
from kvci.tasks.instance import Instance


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
    some = {name: (instances[name], patches[name]) for name in chosen}
    try:
        with RunDirectory(out.resolve()) as directory, stopping():
            return _grade(kind, directory, asked, some)
    except Stopped:
        raise UserError(f"Stopped; what was graded until then lies in {out}.") from None


def _grade(
    kind: Kind, directory: RunDirectory, asked: Spec, chosen: dict[str, tuple[Instance, str]]
) -> dict[str, Graded]:
    sandboxes = Sandboxes.of(asked, kind, directory.scratch, directory.path.name)
    sandboxes.sweep()
    grader = Grader(sandboxes, asked.test_s)
    graded: dict[str, Graded] = {}
    try:
        futures = {
            name: grader.submit(
                instance,
                patch.encode(errors="surrogateescape"),
                directory.path / name,
                lambda _: None,
                None,
            )
            for name, (instance, patch) in chosen.items()
        }
        for name, future in futures.items():
            graded[name] = future.result()
            graded[name].write(directory.path / name / "graded.json")
    finally:
        grader.close(wait=len(graded) == len(chosen))
        sandboxes.sweep(own=True)
    return graded


def _read(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        lines = path.read_bytes().rstrip().split(b"\n")
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
