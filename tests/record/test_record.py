"""The schema: every version is read, and invalid records are refused."""

import json
from pathlib import Path

import pytest

from kvci.compare.side import own_side
from kvci.errors import UserError
from kvci.record.schema import Record
from kvci.record.store import read, read_all
from kvci.spec import hash_of
from tests.conftest import GOLDEN
from tests.record.made import record


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_every_schema_version_is_read(version: int) -> None:
    old = read(GOLDEN / "records" / f"v{version}.json")
    assert isinstance(old, Record)
    assert old.schema_version == version
    assert (old.resolved, old.submitted, old.errors, old.total, old.complete) == (1, 1, 1, 2, True)
    assert old.kv == "q8_0/q8_0" and old.model == "small (Q4_K_M)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 5}, "schema_version"),
        ({"kind": "other"}, "other"),
        ({"more": 1}, "more"),
        ({"start": "2026-02-30T00:00:00Z"}, "start: day"),
        ({"spec": {"seeds": [0, 1]}}, "does not have the hash"),
    ],
)
def test_invalid_record_gives_one_sentence(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(json.loads(record().model_dump_json()) | change))
    with pytest.raises(UserError, match=message):
        read(path)


def test_file_must_have_its_records_name(tmp_path: Path) -> None:
    record().write(tmp_path / "other.json")
    with pytest.raises(UserError, match="rename"):
        read_all(tmp_path)


def test_arm_without_flags_is_compared() -> None:
    """An arm's flags have a default, so the specification of a record may leave them out."""
    document = json.loads(record().model_dump_json())
    for arm in document["spec"]["arms"]:
        del arm["flags"]
    document["spec_sha256"] = hash_of(document["spec"])
    assert own_side(Record.model_validate(document)).kv == "q8_0/q8_0"
