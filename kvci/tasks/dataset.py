"""Load a dataset by its name: the calibration suite, a file, or a dataset of the hub."""

import hashlib
import re
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from kvci.errors import UserError
from kvci.hub import cached_files, fetch, revision_and_files
from kvci.tasks import row
from kvci.tasks.calibration import suite
from kvci.tasks.instance import Instance

NAMED = {
    "lite": "SWE-bench/SWE-bench_Lite",
    "verified": "SWE-bench/SWE-bench_Verified",
    "multilingual": "SWE-bench/SWE-bench_Multilingual",
}
"""Short name -> repository on the hub. Its rows have the v5 format."""
TEST_SPLIT = "data/test-*.parquet"


def load(dataset: str, known: str = "") -> list[Instance]:
    """Return the instances of a dataset, in its order. Raises UserError if it cannot be loaded."""
    return load_with_revision(dataset, known)[0]


def is_calibration(dataset: str) -> bool:
    """True if kvci generates the dataset. Only its name is read."""
    return dataset.partition(":")[0] == "calibration"


def by_id(instances: Iterable[Instance]) -> dict[str, Instance]:
    """Return id -> instance, in the order of the instances."""
    return {one.row.instance_id: one for one in instances}


def load_with_revision(dataset: str, known: str = "") -> tuple[list[Instance], str]:
    """Return the instances of a dataset, in its order, and the dataset's commit on the hub.

    The commit is "" if the dataset is not from the hub. The name of a repository on the hub may end
    with a revision: `OWNER/NAME@REVISION`. A resumed run gives the commit of its first start as
    `known`, so that the run keeps that commit. If the files of that commit are in the cache, the
    hub is not needed. Raises UserError if the dataset cannot be loaded.
    """
    if is_calibration(dataset):
        return suite(dataset), ""
    name, _, revision = dataset.partition("@")
    name = NAMED.get(name, name)
    path = Path(dataset)
    hub = re.fullmatch(r"[\w.-]+/[\w.-]+", name) and path.suffix not in (".jsonl", ".parquet")
    if not hub:
        return [Instance(each) for each in row.load(path)], ""
    try:
        commit, files = revision_and_files(name, known or revision or None)
    except UserError:
        commit, files = known, cached_files(name, known) if known else []
        if not files:
            raise
    parts = sorted(file for file in files if fnmatch(file, TEST_SPLIT))
    if not parts:
        raise UserError(
            f"The dataset {name} on the hub has no file {TEST_SPLIT}; give a file with its rows."
        )
    rows = [each for part in parts for each in row.load(fetch(name, part, commit, "dataset"))]
    return [Instance(each) for each in rows], commit


def dataset_sha256(instances: Iterable[Instance]) -> str:
    """Return the sha256 of all rows, in the order of the instances."""
    digest = hashlib.sha256()
    for instance in instances:
        digest.update(instance.row.model_dump_json().encode())
    return digest.hexdigest()
