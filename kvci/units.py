"""Durations and sizes as people write them: `90m`, `1h30m`, `20GB`, `4GiB`.

A bare number, which has no unit, has the unit of its field: seconds, minutes, GB or MiB.
"""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, ByteSize, TypeAdapter, ValidationError

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
    return value if _is_bare(value) else _bytes(value) >> 20


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
        return int(_BYTES.validate_python(text))
    except ValidationError:
        raise ValueError(f"'{text}' is not a size; write it as 500MB, 20GB or 4GiB") from None
