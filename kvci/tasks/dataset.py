"""A dataset by its name: the calibration suite, a file of rows, or a hub's."""

import re
from pathlib import Path
from typing import Any

from kvci.errors import UserError
from kvci.tasks import row
from kvci.tasks.calibration import suite
from kvci.tasks.instance import Instance


def load(dataset: str) -> list[Instance]:
    """Its instances in order. Raises UserError."""
    if dataset.partition(":")[0] == "calibration":
        return suite(dataset)
    path = Path(dataset)
    hub = re.fullmatch(r"[\w.-]+/[\w.-]+", dataset) and not path.suffix.endswith(
        ("jsonl", "parquet")
    )
    rows = row.parse(_hub(dataset), dataset) if hub else row.load(path)
    return [Instance(each) for each in rows]


def _hub(name: str) -> list[dict[str, Any]]:
    """The test split of a dataset on the hub, by the library `datasets`."""
    import datasets

    try:
        return [dict(raw) for raw in datasets.load_dataset(name, split="test")]
    except Exception as error:  # what the library raises without a network has no common base
        raise UserError(
            f"The dataset {name} cannot be had from the hub ({str(error)[:200]}); "
            "give a .jsonl or .parquet file instead."
        ) from None
