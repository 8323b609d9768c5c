"""Say in plain words what is wrong with a value that is not valid."""

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from reprlib import Repr
from typing import Any, LiteralString

from pydantic import AfterValidator, ValidationError
from pydantic_core import PydanticCustomError

Show = Callable[[float], str]
"""A function that shows a number with its unit."""
WORDS = {
    "missing": "the field {where} is missing",
    "extra_forbidden": "the field {where} does not exist",
    "json_invalid": "it is not JSON ({error})",
    "json_type": "it is not JSON",
    "union_tag_not_found": "the field {tag} is missing",
    "union_tag_invalid": "{tag} is not one of {expected_tags}",
    "value_error": "{where}: {error}",
    "literal_error": "{where}: {value} is not one of {expected}",
    "enum": "{where}: {value} is not one of {expected}",
    "string_type": "{where}: {value} is not text",
    "string_too_long": "{where}: it has more than {max_length} characters",
    "string_pattern_mismatch": "{where}: {value} does not have the form {pattern}",
    "bool_type": "{where}: {value} is not true or false",
    "bool_parsing": "{where}: {value} is not true or false",
    "int_type": "{where}: {value} is not a whole number",
    "int_parsing": "{where}: {value} is not a whole number",
    "int_parsing_size": "{where}: {value} is too large",
    "int_from_float": "{where}: {value} is not a whole number",
    "float_type": "{where}: {value} is not a number; write one, as in 0.05",
    "float_parsing": "{where}: {value} is not a number; write one, as in 0.05",
    "finite_number": "{where}: {value} is not a finite number",
    "tuple_type": "{where}: {value} is not a list; write a list, as in [1, 2]",
    "list_type": "{where}: {value} is not a list; write a list, as in [1, 2]",
    "too_short": "{where}: it has {actual_length} values; give at least {min_length}",
    "too_long": "{where}: it has too many values; give at most {max_length}",
    "dict_type": "{where}: {value} has no fields",
    "model_type": "{where}: {value} has no fields",
    "model_attributes_type": "{where}: {value} has no fields",
    "greater_than": "{where}: {value} is too small; give more than {gt}",
    "greater_than_equal": "{where}: {value} is too small; give at least {ge}",
    "less_than": "{where}: {value} is too large; give less than {lt}",
    "less_than_equal": "{where}: {value} is too large; give at most {le}",
}
"""The type of pydantic's error -> our words."""
LIMITS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}
NEWER: LiteralString = "newer"
"""The error of a document that a newer version of kvci wrote."""
OF_OTHER_VERSIONS = {"extra_forbidden", "literal_error", "enum", "union_tag_invalid"}
"""The errors of a document with a field or a word that another version of kvci may know."""
BRIEF_MAX = 300
"""The maximum length of a reason in a list, in characters."""
SHORT = Repr()
SHORT.maxstring = SHORT.maxother = 80


def matching(pattern: str, rule: str) -> AfterValidator:
    """Return a validator that refuses text which does not match. `rule` says what to write."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"{_quoted(text)} is not valid here; {rule}")
        return text

    return AfterValidator(check)


def first_problem(
    error: ValueError,
    names: Mapping[str, str] | None = None,
    units: Mapping[str, Show] | None = None,
    known: Mapping[str, str] | None = None,
) -> str:
    """Return the most helpful problem in one line: the field, what is wrong, and what to give.

    `names` is field -> the name that the user knows. `units` is field -> how the user writes its
    numbers. `known` is another spelling -> the name to write, for a field that does not exist.
    """
    if not isinstance(error, ValidationError):
        return str(error)
    problems = error.errors()  # an unknown field is often the misspelt name of a missing field
    problem: Any = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
    field, *inside = (str(part) for part in problem["loc"]) if problem["loc"] else [""]
    where = ".".join([(names or {}).get(field, field), *inside])
    kind, show = problem["type"], (units or {}).get(field, _plain)
    context: dict[str, Any] = problem.get("ctx", {})
    facts = {name: _shown(value, show) for name, value in context.items()}
    given = problem["input"]
    value = _shown(given, show) if _is_number(given) else _quoted(given)
    if kind in LIMITS and isinstance(given, str):  # the text of a number, perhaps with a unit
        value = given
    tag = str(context.get("tag", context.get("discriminator", ""))).strip("'")
    if kind not in WORDS:
        return ": ".join(filter(None, (where, problem["msg"].rstrip("."))))
    words = WORDS[kind].format_map(facts | {"where": where, "value": value, "tag": tag})
    words = words.removeprefix(": ").rstrip(".")
    if kind == "extra_forbidden" and (meant := _meant(where, known or {})):
        words += f"; write {meant}"
    return words


def brief(text: str) -> str:
    """Return the text in one line: of a traceback the exception, of a long text its last words."""
    lines = text.strip().splitlines()
    if lines and lines[0].startswith("Traceback (most recent call last)"):
        frames = [number for number, line in enumerate(lines) if line.startswith(" ")]
        lines = lines[max(frames, default=0) + 1 :] or lines[-1:]
    words = " ".join(" ".join(lines).split())
    return words if len(words) <= BRIEF_MAX else f"... {words[-BRIEF_MAX:].partition(' ')[2]}"


def remedy(error: ValidationError, otherwise: str = "restore the original file") -> str:
    """Return a sentence that says what to do with a document of kvci that is not valid.

    Return an empty text if the problem itself says it.
    """
    kinds = {problem["type"] for problem in error.errors()}
    if NEWER in kinds:
        return ""
    if OF_OTHER_VERSIONS & kinds:
        return f" If another version of kvci wrote it, use that version; otherwise {otherwise}."
    return f" {otherwise[0].upper()}{otherwise[1:]}."


def newer(problem: str) -> PydanticCustomError:
    """Return the error of a document that only another version of kvci can read."""
    told = f"{problem}; use the kvci that wrote it"
    return PydanticCustomError(NEWER, "{problem}", {"problem": told})


def _meant(name: str, known: Mapping[str, str]) -> str:
    """Return the name that a user probably meant; empty if no known name is like it."""
    close = get_close_matches(name, known, 1)
    return known[close[0]] if close else ""


def _is_number(value: Any) -> bool:
    """True for a number that can be shown with a unit."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18


def _plain(number: float) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)


def _shown(value: Any, show: Show) -> str:
    return show(value) if _is_number(value) else str(value)


def _quoted(value: Any) -> str:
    """Return a value of a file in one line; the middle of a long value is left out."""
    try:
        return SHORT.repr(value)
    except ValueError:
        return "this number"  # Python shows no number of more than 4300 digits
