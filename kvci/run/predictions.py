"""Grade the patches of a predictions file, or the gold patches of a dataset."""

import json
from collections.abc import Callable
from concurrent.futures import Future
from itertools import chain
from pathlib import Path

from kvci.errors import UserError
from kvci.files import Document
from kvci.plan import select
from kvci.problems import first_problem
from kvci.run.grader import Grader
from kvci.run.sandboxes import Sandboxes, choose
from kvci.run.stop import Stopped, stopping
from kvci.run.supplies import waves
from kvci.rundir.directory import RunDirectory
from kvci.rundir.documents import Graded
from kvci.spec import Spec
from kvci.tasks.dataset import by_id, load
from kvci.tasks.instance import Instance
from kvci.taxonomy import Verdict


class Prediction(Document):
    """One line of a predictions file, in the harness's format."""

    instance_id: str
    model_patch: str | None
    model_name_or_path: str = ""


def grade_patches(
    spec: Spec, predictions: Path | None, out: Path, say: Callable[[str], None] = print
) -> dict[str, Graded]:
    """Return instance id -> the grading of its patch, or of its gold patch without predictions.

    Images are pulled in waves. Logs and patches are written to `out`, into one folder for each
    instance. Raises UserError if the predictions are not valid, or if grading is stopped.
    """
    instances = by_id(load(spec.dataset))
    if predictions:
        patches = _read(predictions)
        unknown = sorted(patches.keys() - instances.keys())
        if unknown:
            raise UserError(
                f"{unknown[0]} in {predictions} is not an instance of {spec.dataset}; remove it."
            )
    else:
        patches = {name: instance.row.patch for name, instance in instances.items()}
    with_patch = [name for name in instances if name in patches]
    if not with_patch:
        raise UserError(
            f"{predictions} contains no prediction; write one JSON object in each line."
        )
    selected = {name: instances[name] for name in select(with_patch, spec)}
    kind, _ = choose(spec, selected.values())
    try:
        with RunDirectory(out.resolve()) as directory, stopping():
            return _grade(kind, directory, spec, selected, patches, say)
    except Stopped:
        raise UserError(f"Stopped; read the results so far in {out}.") from None


def _grade(
    kind: str,
    directory: RunDirectory,
    spec: Spec,
    instances: dict[str, Instance],
    patches: dict[str, str],
    say: Callable[[str], None],
) -> dict[str, Graded]:
    sandboxes = Sandboxes.of(spec, kind, directory.scratch, directory.path.name)
    sandboxes.sweep()
    one_each = spec.model_copy(update={"block_size": 1})  # no pairs have to stay together
    grader = Grader(sandboxes, spec.test_s, spec.grade_workers)
    graded: dict[str, Graded] = {}
    ended = False

    def submit(name: str) -> Future[Graded]:
        patch, folder = patches[name].encode(errors="surrogateescape"), directory.path / name
        return grader.submit(instances[name], patch, folder, lambda _: None, None)

    empty = {name for name in instances if not patches[name].strip()}  # they need no image
    rest = waves(one_each, instances, instances.keys() - empty, directory.path, say)
    try:
        for wave in chain([empty], rest):
            futures = {name: submit(name) for name in instances if name in wave}
            for name, future in futures.items():
                graded[name] = future.result()
                graded[name].write(directory.path / name / "graded.json")
        ended = True
    finally:
        grader.close(wait=ended)
        sandboxes.sweep(own=True)
    no_image = Graded(verdict=Verdict.GRADING_FAILED, detail="its image is not available")
    return {name: graded.get(name, no_image) for name in instances}


def _read(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        lines = path.read_bytes().rstrip().split(b"\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give another file.") from None
    for number, line in enumerate(lines, 1):
        try:
            one = Prediction.model_validate(json.loads(line))
            (one.model_patch or "").encode(errors="surrogateescape")
        except ValueError as error:
            problem = first_problem(error)
            raise UserError(
                f"Line {number} of {path} is not a prediction ({problem}); correct it."
            ) from None
        if one.instance_id in found:
            raise UserError(
                f"{path} has two patches for {one.instance_id}; give one patch for each instance."
            )
        found[one.instance_id] = one.model_patch or ""
    return found
