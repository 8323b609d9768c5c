"""Make a specification from a TOML file and from options."""

import re
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, ValidationError

from kvci.errors import UserError
from kvci.files import read_toml
from kvci.problems import first_problem
from kvci.spec.specification import Spec
from kvci.units import shown

EXAMPLES = "ci/experiments for examples"
KV = {"kv": "arms", "arm": "arms"}
"""The option for arms -> the field of a file, which is a list of arms."""


def load(path: Path | None, overrides: dict[str, Any]) -> Spec:
    """Return the specification of a TOML file, with the fields of `overrides` over it.

    Raises UserError if the file cannot be read, or if the specification is not valid.
    """
    asked: dict[str, Any] = _by_field(read_toml(path, EXAMPLES), str(path)) if path else {}
    model = asked.get("model")
    if isinstance(model, str):
        asked["model"] = _model(model, path.parent if path else Path())
    given = {key: value for key, value in overrides.items() if value is not None}
    if isinstance(given.get("model"), str):
        given["model"] = _model(given["model"], Path())
    try:
        return Spec.model_validate(asked | given)
    except ValidationError as error:
        where = f"{path}{' with these options' if given else ''}" if path else "The specification"
        names = {field: name for name, field in other_names().items()}
        names |= {"arms": "kv"} if "arms" in given else {}  # the option, not the file, gives them
        known = {name: names.get(name, name) for name in Spec.model_fields}
        known |= {name: name for name in names.values()} | KV
        problem = first_problem(error, names, shown(Spec), known)
        raise UserError(f"{where} is not valid: {problem}.") from None


def other_names() -> dict[str, str]:
    """Return name -> field, for the names that an experiment file may use instead of the fields'
    own names: `time_budget` stands for `time_budget_s`."""
    found: dict[str, str] = {}
    for name, field in Spec.model_fields.items():
        if isinstance(field.validation_alias, AliasChoices):  # a field with an earlier name
            found |= {str(alias): name for alias in field.validation_alias.choices if alias != name}
        shown = field.json_schema_extra
        flags = shown.get("flags") if isinstance(shown, dict) else None
        if isinstance(flags, list) and flags and name != "arms":
            found[str(flags[0]).removeprefix("--").replace("-", "_")] = name
    return found


def _by_field(asked: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the same values by field. Raises UserError if a field is given twice."""
    names, found, given = other_names(), dict[str, Any](), dict[str, str]()
    for name, value in asked.items():
        field = names.get(name, name)
        if field in found:
            raise UserError(
                f"{where} gives {given[field]} and {name}, which are one field; keep one of them."
            )
        found[field], given[field] = value, name
    return found


def without_model(asked: dict[str, Any]) -> Spec:
    """Return a specification for commands that need only a dataset's instances.

    Raises UserError if it is not valid.
    """
    return load(None, {"model": {"name": "none", "path": "none"}, "arms": ["f16/f16"]} | asked)


def _model(text: str, beside: Path) -> dict[str, Any]:
    """Return the fields of a model.

    `text` names a .toml file of ci/models or a .gguf file. If it is not a path from the working
    directory, it is a path from the folder `beside`.
    """
    path = Path(text) if Path(text).exists() else beside / text
    if path.suffix == ".toml":
        return read_toml(path, EXAMPLES)
    if not path.exists():
        raise UserError(
            f"The model {text} does not exist; give a .gguf file or a file of ci/models."
        )
    name = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("-._") or "model"
    return {"name": name, "path": str(path.resolve())}
