"""A dataset by its name: the calibration suite, a file of rows, or a hub's."""

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
"""Short names of repositories on the hub, in the v5 format."""
TEST_SPLIT = "data/test-*.parquet"


def load(dataset: str, known: str = "") -> list[Instance]:
    """Its instances in order. Raises UserError."""
    return load_with_revision(dataset, known)[0]


def load_with_revision(dataset: str, known: str = "") -> tuple[list[Instance], str]:
    """Its instances in order, and the hub's commit that they came from; a file has none.

    A repository of the hub may be given with a revision, as `OWNER/NAME@REVISION`. `known` is the
    commit of a run that has begun: it stays with it, and needs the hub no more. Raises UserError.
    """
    if dataset.partition(":")[0] == "calibration":
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
        raise UserError(f"{name} on the hub has no {TEST_SPLIT}; give a file of its rows instead.")
    rows = [each for part in parts for each in row.load(fetch(name, part, commit, "dataset"))]
    return [Instance(each) for each in rows], commit


def dataset_sha256(instances: Iterable[Instance]) -> str:
    digest = hashlib.sha256()
    for instance in instances:
        digest.update(instance.row.model_dump_json().encode())
    return digest.hexdigest()
