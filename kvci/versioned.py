"""Documents that can grow: a new field changes no existing file and no existing hash.

A field of a later schema is written only if it differs from its default. So a document that uses
no later field has the same bytes, and the same hash, in every version of kvci. A removed field is
still read, and it stays in the document. A renamed field is a pydantic alias: the validation alias
lists all names, and the serialization alias is the first name.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Self

from pydantic import (
    AliasChoices,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticUndefined

from kvci.files import Document
from kvci.problems import newer

KEY = "schema_version"
"""The name of the field that holds a document's schema version."""


def since(version: int, default: Any = PydanticUndefined, **field: Any) -> Any:
    """Return a field that schema `version` added. `field`: more arguments for pydantic's Field."""
    return Field(default, json_schema_extra={"since": version}, **field)


class Versioned(Document):
    """A document with a schema version. A document that names no version has version 1."""

    model_config = ConfigDict(serialize_by_alias=True, populate_by_name=True)
    SCHEMA: ClassVar[int] = 1
    """The newest schema that this class reads."""
    REMOVED: ClassVar[dict[str, Any]] = {}
    """Removed fields of earlier schemas, and their defaults."""
    _removed: dict[str, Any] = PrivateAttr(default_factory=dict)

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Raises TypeError if a field is newer than SCHEMA: kvci could not read its own files."""
        for name, version in _later_fields(cls):
            if version > cls.SCHEMA:
                raise TypeError(f"{cls.__name__}.{name} needs SCHEMA {version}, not {cls.SCHEMA}")

    @classmethod
    def names(cls) -> set[str]:
        """Return the names of all fields that a document of this class may have."""
        found = {*cls.model_fields, *cls.REMOVED}
        for field in cls.model_fields.values():
            if isinstance(field.validation_alias, AliasChoices):
                found |= {str(name) for name in field.validation_alias.choices}
        return found

    @property
    def schema_version(self) -> int:
        """The earliest schema that can hold this document. Inner documents have their own."""
        used = (
            version for name, version in _later_fields(type(self)) if not _is_default(self, name)
        )
        return max(used, default=1)

    @model_validator(mode="wrap")
    @classmethod
    def _read_any_schema(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(given, dict):
            return handler(given)
        version = given.get(KEY, 1)
        if type(version) is not int or version < 1:
            raise ValueError(f"its {KEY} is {version!r}, and must be a whole number from 1")
        if version > cls.SCHEMA:
            raise newer(f"it has schema {version}, and this kvci reads schema {cls.SCHEMA} at most")
        removed = cls.REMOVED | {name: given[name] for name in cls.REMOVED if name in given}
        document = handler({name: given[name] for name in given if name not in (KEY, *cls.REMOVED)})
        document._removed = removed
        return document

    @model_serializer(mode="wrap")
    def _write_earliest_schema(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document: dict[str, Any] = handler(self)
        for name, _ in _later_fields(type(self)):
            if _is_default(self, name):
                document.pop(name, None)
        version = {KEY: self.schema_version} if self.schema_version > 1 else {}
        return version | document | self._removed


def _later_fields(kind: type[Versioned]) -> Iterator[tuple[str, int]]:
    """Yield each field that a schema after the first one added, and that schema's version."""
    for name, field in kind.model_fields.items():
        extra = field.json_schema_extra
        version = int(str(extra.get("since", 1))) if isinstance(extra, dict) else 1
        if version > 1:
            yield name, version


def _is_default(document: Versioned, name: str) -> bool:
    field = type(document).model_fields[name]
    default = field.get_default(call_default_factory=True, validated_data={})
    return bool(getattr(document, name) == default)


def without_versions(document: Any) -> Any:
    """Return the JSON value without its schema versions, which do not change its meaning."""
    if isinstance(document, dict):
        return {name: without_versions(value) for name, value in document.items() if name != KEY}
    if isinstance(document, list):
        return [without_versions(value) for value in document]
    return document
