"""The records of a run's shards -> those of the run: the same trials, in one record an arm."""

from collections.abc import Iterable, Sequence
from itertools import zip_longest

from kvci.errors import UserError
from kvci.record.schema import EvidenceFiles, Record


def merge(parts: Sequence[tuple[str, list[Record]]]) -> list[Record]:
    """`parts` has each shard's folder name and its records.

    Instances are taken from the shards in turn, as they were dealt out. Raises UserError if the
    shards are not of one run.
    """
    if len({len(records) for _, records in parts}) > 1:
        raise UserError("The shards have not the same arms; put the shards of one run together.")
    arms = zip(*(records for _, records in parts), strict=True)
    return [_merge([name for name, _ in parts], list(records)) for records in arms]


def _merge(names: Sequence[str], records: Sequence[Record]) -> Record:
    first = records[0]
    for name, record in zip(names, records, strict=True):
        if (record.row_id, record.key) != (first.row_id, first.key):
            raise UserError(
                f"{name} is not of the same run as {names[0]} ({record.row_id}, not "
                f"{first.row_id}); put the shards of one run side by side."
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
