"""Make a comparison from run folders, record files and row ids."""

from collections.abc import Sequence
from pathlib import Path

from kvci.compare.compare import compare
from kvci.compare.findings import Comparison
from kvci.compare.side import Side, side_of
from kvci.errors import UserError
from kvci.importer.mini import read_run
from kvci.record.from_run import build
from kvci.record.schema import Imported, Record
from kvci.record.store import file_name, read
from kvci.rundir.parts import Run


def compare_named(names: Sequence[str], results: Path) -> Comparison:
    """Return the comparison of all sides that the names give. The first side is the baseline.

    A name is a run folder (it gives all its arms), an earlier run's folder, a record file, or a row
    id. Raises UserError if a name is unknown or given twice, or if the sides cannot be compared.
    """
    sides = [side for name in names for side in _sides(name, results)]
    if len(sides) < 2:
        raise UserError("A comparison needs two sides; name another run or record.")
    if len({side.name for side in sides}) < len(sides):
        raise UserError("A run or record is named twice; name each run and each record once.")
    runs = {side.run for side in sides}
    if len(runs) == 1 and sides[0].arms and sides[0].arms[0] not in {side.arm for side in sides}:
        raise UserError(f"The run's baseline {sides[0].arms[0]} is missing; name that arm, too.")
    return compare(sides)


def _sides(name: str, results: Path) -> list[Side]:
    sides = []
    for record in _records(name, results):
        if isinstance(record, Record) and record.rerun:
            raise UserError(
                f"{record.row_id} is a targeted rerun and cannot be compared; name another run."
            )
        side = side_of(record)
        if side is None:
            raise UserError(
                f"{record.row_id} has counts and no trials; name the earlier run's folder instead."
            )
        sides.append(side)
    return sides


def _records(name: str, results: Path) -> Sequence[Record | Imported]:
    path, recorded = Path(name), results / file_name(name)
    if Run(path).exists:
        return build(path, row=False)
    if (path / "preds.json").exists():
        return [read_run(path)]
    if path.is_file() or recorded.is_file():
        return [read(path if path.is_file() else recorded)]
    raise UserError(
        f"{name} is not a run folder, a record file or a row id in {results}; check the name."
    )
