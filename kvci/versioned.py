"""Documents that can grow: a field added later changes no existing file and no existing hash.

A field of a later schema is written only where it differs from its default. So a document that
uses no later field has the same bytes, and the same hash, in every version of kvci. A removed field
is still read and keeps its place in the document. A renamed field is a pydantic alias: the
validation alias lists all names, the serialization alias is the first one.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Self

from pydantic import (
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from kvci.files import Document

KEY = "schema_version"


def since(version: int, default: Any, **field: Any) -> Any:
    """A field that schema `version` added, with its default; all else as pydantic's Field."""
    return Field(default, json_schema_extra={"since": version}, **field)


class Versioned(Document):
    """A document with a schema version: 1 unless the document names another."""

    model_config = ConfigDict(serialize_by_alias=True, populate_by_name=True)
    SCHEMA: ClassVar[int] = 1
    """The newest schema that this class reads."""
    REMOVED: ClassVar[dict[str, Any]] = {}
    """Fields of earlier schemas that are gone, and the value they had where none was given."""
    _removed: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def schema_version(self) -> int:
        """The earliest schema that can hold this document; those inside have their own."""
        used = (version for name, version in _later(self) if not _is_default(self, name))
        return max(used, default=1)

    @model_validator(mode="wrap")
    @classmethod
    def _of_any_schema(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(given, dict):
            return handler(given)
        version = given.get(KEY, 1)
        if not isinstance(version, int) or version > cls.SCHEMA:
            raise ValueError(
                f"it has schema {version}, and this kvci reads schema {cls.SCHEMA} at most; use "
                "the kvci that wrote it"
            )
        kept = cls.REMOVED | {name: given[name] for name in cls.REMOVED if name in given}
        made = handler({name: given[name] for name in given if name not in (KEY, *cls.REMOVED)})
        made._removed = kept
        return made

    @model_serializer(mode="wrap")
    def _in_the_earliest_schema(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document: dict[str, Any] = handler(self)
        for name, _ in _later(self):
            if _is_default(self, name):
                document.pop(name, None)
        named = {KEY: self.schema_version} if self.schema_version > 1 else {}
        return named | document | self._removed


def _later(document: Versioned) -> Iterator[tuple[str, int]]:
    """The fields that a later schema than the first added, and that schema."""
    for name, field in type(document).model_fields.items():
        if isinstance(field.json_schema_extra, dict) and "since" in field.json_schema_extra:
            yield name, int(str(field.json_schema_extra["since"]))


def _is_default(document: Versioned, name: str) -> bool:
    return bool(getattr(document, name) == type(document).model_fields[name].get_default())


def without_keys(document: Any) -> Any:
    """The same JSON value without schema versions, which say how a document is read, not what it
    says."""
    if isinstance(document, dict):
        return {name: without_keys(value) for name, value in document.items() if name != KEY}
    if isinstance(document, list):
        return [without_keys(value) for value in document]
    return document
