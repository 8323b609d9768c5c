"""One instance: a SWE-bench row in the v5 format."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from kvci.errors import UserError
from kvci.problems import first_problem
from kvci.versioned import Versioned


class Row(Versioned):
    """The columns of swebench 5's datasets, under swebench's names."""

    repo: str
    instance_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """The pattern makes the id safe as the name of a folder."""
    base_commit: str = Field(pattern=r"^([0-9a-f]{7,64}|HEAD)$")
    """The pattern makes the commit safe for git, because git reads `--x` as an option."""
    patch: str
    test_patch: str
    problem_statement: str
    hints_text: str = ""
    created_at: str = ""
    version: str
    FAIL_TO_PASS: tuple[str, ...]
    PASS_TO_PASS: tuple[str, ...]
    environment_setup_commit: str = ""
    difficulty: str = ""
    image: str
    eval_script: str
    log_parser: str
    eval_type: str

    @field_validator("FAIL_TO_PASS", "PASS_TO_PASS", mode="before")
    @classmethod
    def _from_json(cls, tests: Any) -> Any:
        return json.loads(tests) if isinstance(tests, str) else tests

    @field_validator(
        "hints_text", "created_at", "environment_setup_commit", "difficulty", mode="before"
    )
    @classmethod
    def _absent(cls, text: Any) -> Any:
        return "" if text is None else text


def load(path: Path) -> list[Row]:
    """Return the rows of a .jsonl or .parquet file, in their order.

    Raises UserError if the file cannot be read, or if a row is not valid or occurs twice.
    """
    rows: list[Row] = []
    for number, raw in enumerate(_raw(path), 1):
        if "image" not in raw and "patch" in raw:
            raise UserError(
                f"{path} contains rows of the old format, without image and eval_script; "
                "use the v5 format of swebench 5, for example the hub's SWE-bench/SWE-bench_Lite."
            )
        try:
            rows.append(Row.model_validate(raw))
        except ValidationError as error:
            raise UserError(
                f"Row {number} of {path} is not valid ({first_problem(error)}); correct it."
            ) from None
    ids = {row.instance_id for row in rows}
    if len(ids) != len(rows):
        raise UserError(f"{path} contains an instance_id twice; remove one of the rows.")
    return rows


def _raw(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise UserError(
            f"The dataset {path} does not exist; give lite, verified, multilingual, a .jsonl or "
            ".parquet file, or OWNER/NAME on the hub."
        )
    if path.suffix == ".jsonl":
        for number, line in enumerate(path.read_bytes().rstrip().split(b"\n"), 1):
            try:
                raw = json.loads(line)
            except ValueError:
                raw = None
            if not isinstance(raw, dict):
                raise UserError(
                    f"Line {number} of {path} is not a JSON object; write one object in each line."
                )
            yield raw
    elif path.suffix == ".parquet":
        from pyarrow import ArrowInvalid, parquet

        try:
            yield from parquet.read_table(path).to_pylist()
        except (ArrowInvalid, OSError):
            raise UserError(f"{path} is not a parquet file; give another file.") from None
    else:
        raise UserError(
            f"The dataset {path} has an unknown format; give a .jsonl or a .parquet file."
        )


HEAD = re.compile(
    r'^diff --git (?:a/(?P<same>[^\r\n]*) b/(?P=same)|(?:a/.*|"a/.*") b/(?P<plain>[^\r\n]*)'
    r'|(?:a/.*|"a/.*") "b/(?P<quoted>.*)")\r?$',
    re.MULTILINE,
)
"""The head of a file in a git patch. git quotes names with special characters."""


def patched_files(patch: str) -> frozenset[str]:
    """Return the files that a git patch changes, by their new names."""
    heads = HEAD.finditer(patch)
    return frozenset(
        head["same"] or head["plain"] or _unquoted(head["quoted"] or "") for head in heads
    )


ESCAPED = re.compile(rb'\\([abtnvfr"\\]|[0-3][0-7]{2})')
SIGNS = dict(zip(b'abtnvfr"\\', b'\a\b\t\n\v\f\r"\\', strict=True))


def _unquoted(name: str) -> str:
    """Return a name that git has quoted. Any other backslash stays (git's quote.c)."""

    def byte(found: re.Match[bytes]) -> bytes:
        sign = found[1]
        return bytes([SIGNS[sign[0]] if len(sign) == 1 else int(sign, 8)])

    raw = name.encode(errors="backslashreplace")
    return ESCAPED.sub(byte, raw).decode(errors="surrogateescape")
