"""Merge the records of a run's shards into one record per arm, with all trials of the arm."""

from collections.abc import Iterable, Sequence
from itertools import zip_longest

from kvci.errors import UserError
from kvci.record.schema import EvidenceFiles, Record


def merge(parts: Sequence[tuple[str, list[Record]]]) -> list[Record]:
    """Return one record per arm. `parts` has the folder name and the records of each shard.

    The plan gives instance 1 to shard 1, instance 2 to shard 2, and so on. The merged record has
    the planned instances in the order of the plan again. Raises UserError if the shards belong to
    different runs.
    """
    if len({len(records) for _, records in parts}) > 1:
        raise UserError("The shards have different arms; keep only shards of one run in a folder.")
    arms = zip(*(records for _, records in parts), strict=True)
    return [_merge([name for name, _ in parts], list(records)) for records in arms]


def _merge(names: Sequence[str], records: Sequence[Record]) -> Record:
    first = records[0]
    for name, record in zip(names, records, strict=True):
        if (record.row_id, record.key) != (first.row_id, first.key):
            raise UserError(
                f"{name} and {names[0]} belong to different runs ({record.row_id} and "
                f"{first.row_id}); keep only shards of one run in a folder."
            )
    planned = [name for row in zip_longest(*(r.planned for r in records)) for name in row if name]
    return first.model_copy(
        update={
            "host": _joined(record.host for record in records),
            "gpu": _joined(record.gpu for record in records),
            "kvci": _joined(record.kvci for record in records),
            "python": _joined(record.python for record in records),
            "sandbox": _joined(record.sandbox for record in records),
            "planned": tuple(planned),
            "effective": tuple(dict.fromkeys(one for r in records for one in r.effective)),
            "trials": tuple(trial for record in records for trial in record.trials),
            "evidence": EvidenceFiles(
                files={
                    f"{name}/{path}": digest
                    for name, record in zip(names, records, strict=True)
                    for path, digest in record.evidence.files.items()
                }
            ),
        }
    )


def _joined(values: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(value for value in values if value))
