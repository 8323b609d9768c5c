"""Durations and sizes as people write them: `90m`, `1h30m`, `20GB`, `4GiB`.

A bare number, which has no unit, has the unit of its field: seconds, minutes, GB or MiB.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ByteSize, TypeAdapter
from pydantic.fields import FieldInfo

SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([dhms])")
_BYTES = TypeAdapter(ByteSize)


def seconds(value: Any) -> Any:
    """Return the seconds of a text such as `1h30m`; return a bare number as it is.

    Raises ValueError if the text is not a duration.
    """
    if not isinstance(value, str) or _is_number(value):
        return value
    text = value.strip().lower()
    if not re.fullmatch(rf"(?:{DURATION.pattern}\s*)+", text):
        raise ValueError(f"'{value}' is not a duration; write it as 45s, 90m, 5h or 1h30m")
    return sum(float(number) * SECONDS[unit] for number, unit in DURATION.findall(text))


def minutes(value: Any) -> Any:
    """Return the minutes of a text such as `1h30m`; return a bare number as it is.

    Raises ValueError if the text is not a duration, or not a whole number of minutes.
    """
    found = seconds(value)
    if found is value:
        return value
    if found % 60:
        raise ValueError(f"'{value}' is not a whole number of minutes; write it as 90m or 5h")
    return int(found // 60)


def gigabytes(value: Any) -> Any:
    """Return the GB (10^9 bytes) of a text such as `20GB`; return a bare number as it is.

    Raises ValueError if the text is not a size.
    """
    return value if _is_bare(value) else _bytes(value) / 1e9


def mebibytes(value: Any) -> Any:
    """Return the whole MiB (2^20 bytes) in a text such as `4GiB`; return a bare number as it is.

    Raises ValueError if the text is not a size.
    """
    if not _is_bare(value):
        return _bytes(value) >> 20
    if isinstance(value, int | float | str) and not float(value).is_integer():
        raise ValueError(f"{value} is not a whole number of MiB; write it as 512MiB or 4GiB")
    return value


def duration(value_s: float) -> str:
    """Return a number of seconds as people write it: 5400 is `1h30m`."""
    parts, left = [], value_s
    for unit, size in SECONDS.items():
        count = left // size if unit != "s" else left
        if count:
            parts.append(f"{count:g}{unit}")
            left -= count * size
    return "".join(parts) or "0s"


def mib(value: int) -> str:
    """Return a number of MiB as people write it: 4096 is `4GiB`."""
    return f"{value >> 10}GiB" if value % 1024 == 0 else f"{value}MiB"


def gb(value: float) -> str:
    """Return a number of GB as people write it: 20.0 is `20GB`."""
    return f"{value:g}GB"


def counted(number: int, noun: str) -> str:
    """Return the number with its noun: `1 trial`, `2 trials`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


Read = Callable[[Any], Any]
SHOWN: dict[Read, Callable[[float], str]] = {
    seconds: duration,
    minutes: lambda value: duration(60.0 * value),
    gigabytes: gb,
    mebibytes: lambda value: mib(int(value)),
}
"""The function that reads a field's text -> the function that shows the field's number."""


def reader(field: FieldInfo) -> Read | None:
    """Return the function that reads the field's text; None if the field has no unit.

    Pydantic keeps it in the field's metadata, or in the type of an optional field.
    """
    inside = [one for one in get_args(field.annotation) if get_origin(one) is Annotated]
    metadata = [*field.metadata, *(m for one in inside for m in get_args(one)[1:])]
    reads = [getattr(m, "func", None) for m in metadata]
    return next((read for read in reads if read in SHOWN), None)


def shown(kind: type[BaseModel]) -> dict[str, Callable[[float], str]]:
    """Return field -> the function that shows its number, for the fields with a unit."""
    reads = {name: reader(field) for name, field in kind.model_fields.items()}
    return {name: SHOWN[read] for name, read in reads.items() if read}


Duration = Annotated[float, BeforeValidator(seconds)]
Minutes = Annotated[int, BeforeValidator(minutes)]
Gigabytes = Annotated[float, BeforeValidator(gigabytes)]
Mebibytes = Annotated[int, BeforeValidator(mebibytes)]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_bare(value: Any) -> bool:
    return not isinstance(value, str) or _is_number(value)


def _bytes(text: str) -> int:
    try:
        if text.strip().lower().endswith("bit"):
            raise ValueError("bits are the unit of a rate, not of a size")
        return int(_BYTES.validate_python(text))
    except ValueError:  # of pydantic, too
        raise ValueError(f"'{text}' is not a size; write it as 500MB, 20GB or 4GiB") from None
