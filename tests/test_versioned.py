"""Tests that new and removed fields of a specification change no existing file or hash."""

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import AliasChoices, Field

from kvci.errors import UserError
from kvci.spec import Model, Spec
from kvci.spec.option import SERVER, option
from kvci.spec.specification import NOT_HASHED
from kvci.versioned import since

LATER = Spec.SCHEMA + 1
FIELDS: dict[str, Any] = {
    "model": {"name": "m", "path": "/m.gguf"},
    "arms": ("f16/f16", "q8_0/q8_0"),
    "dataset": "rows.jsonl",
}


class LaterModel(Model):
    """A model as a later kvci may define it."""

    SCHEMA: ClassVar[int] = 2
    top_k: int = since(2, 0)


class LaterSpec(Spec):
    """A specification as a later kvci may define it, with new, removed and renamed fields."""

    SCHEMA: ClassVar[int] = LATER
    REMOVED: ClassVar[dict[str, Any]] = {"order": 4}
    model: LaterModel
    lanes: int = option(1, help="Servers at a time.", group=SERVER, since=LATER)
    steps: int = Field(
        30, validation_alias=AliasChoices("steps", "old_steps"), serialization_alias="old_steps"
    )


class EarlierSpec(Spec):
    """The same specification before LaterSpec's changes."""

    order: int = 4
    old_steps: int = 30


def test_new_field_at_default_changes_nothing() -> None:
    now, later = EarlierSpec.model_validate(FIELDS), LaterSpec.model_validate(FIELDS)
    assert json.loads(later.model_dump_json()) == json.loads(now.model_dump_json())
    assert later.hash("m", "d") == now.hash("m", "d")
    assert later.schema_version == 1


def test_new_field_in_use_changes_hash() -> None:
    plain = LaterSpec.model_validate(FIELDS)
    used = LaterSpec.model_validate(FIELDS | {"lanes": 2})
    assert used.hash("m", "d") != plain.hash("m", "d")
    assert json.loads(used.model_dump_json())["schema_version"] == LATER
    assert LaterSpec.model_validate_json(used.model_dump_json()) == used
    inside = LaterSpec.model_validate(FIELDS | {"model": {"name": "m", "path": "/m", "top_k": 9}})
    assert inside.hash("m", "d") != plain.hash("m", "d")
    assert LaterSpec.model_validate_json(inside.model_dump_json()) == inside


@pytest.mark.parametrize("given", [{}, {"order": 7, "old_steps": 9}])
def test_removed_and_renamed_fields_keep_hash(given: dict[str, Any]) -> None:
    earlier = EarlierSpec.model_validate(FIELDS | given)
    later = LaterSpec.model_validate_json(earlier.model_dump_json())
    assert later.steps == given.get("old_steps", 30)
    assert later.hash("m", "d") == earlier.hash("m", "d")
    assert json.loads(later.model_dump_json()) == json.loads(earlier.model_dump_json())
    assert LaterSpec.model_validate(later.model_dump() | {"slots": 2}).slots == 2


def test_later_schema_is_refused_with_remedy(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    LaterSpec.model_validate(FIELDS | {"lanes": 2}).write(path)
    found = f"schema {LATER}, and this kvci reads schema {Spec.SCHEMA} .* use the kvci"
    with pytest.raises(UserError, match=found):
        Spec.read(path)
    assert LaterSpec.read(path).lanes == 2


def test_first_schema_is_frozen() -> None:
    """The hash of every existing run contains these fields and defaults."""
    plain = Spec.model_validate(FIELDS)
    assert plain.hash("m", "d") == (
        "cff5377e2d1df19b48de1dc98fe13964c173af7412a3d1d5bce17c185530282c"
    )


def test_versioned_document_accepts_its_number() -> None:
    assert Spec.model_validate(FIELDS | {"schema_version": 1}).slots == 1
    with pytest.raises(ValueError, match="schema_version is 'two'"):
        Spec.model_validate(FIELDS | {"schema_version": "two"})


class WithoutWorkers(Spec):
    """A specification that has lost a field which was never hashed."""

    SCHEMA: ClassVar[int] = 2
    REMOVED: ClassVar[dict[str, Any]] = {"retries": 4}
    notes: tuple[str, ...] = since(2, default_factory=tuple)


def test_removed_unhashed_field_keeps_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Spec.model_validate(FIELDS)
    monkeypatch.setattr("kvci.spec.specification.NOT_HASHED", NOT_HASHED | {"retries"})
    for given in ({}, {"retries": 9}):
        later = WithoutWorkers.model_validate(FIELDS | given)
        assert later.hash("m", "d") == plain.hash("m", "d")
        assert "retries" not in later.identity("m", "d")
        assert later.model_dump()["retries"] == given.get("retries", 4)
        assert later.without_places().model_dump()["retries"] == 4


def test_default_factory_at_default_changes_nothing() -> None:
    document = json.loads(WithoutWorkers.model_validate(FIELDS).model_dump_json())
    assert "notes" not in document and "schema_version" not in document


def test_field_newer_than_schema_is_a_defect() -> None:
    with pytest.raises(TypeError, match=f"needs SCHEMA {LATER}, not {Spec.SCHEMA}"):

        class _Forgotten(Spec):
            lanes: int = since(LATER, 1)


@pytest.mark.parametrize("version", [0, -4, True, "1"])
def test_schema_version_is_a_positive_number(version: object) -> None:
    with pytest.raises(ValueError, match=r"its schema_version is .*, and must be a whole number"):
        Spec.model_validate(FIELDS | {"schema_version": version})
