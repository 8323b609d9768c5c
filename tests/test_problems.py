"""Every problem of a value is told in kvci's words, never in pydantic's."""

import traceback
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from click.testing import CliRunner
from pydantic import Field, ValidationError

from kvci.cli import main
from kvci.files import Document
from kvci.problems import brief, first_problem, matching


class Sample(Document):
    count: int = Field(1, ge=1, le=9)
    share: float = Field(0.5, gt=0, lt=1)
    name: Annotated[str, matching("[a-z]+", "write small letters")] = "a"
    kind: Literal["a", "b"] = "a"
    on: bool = False
    some: tuple[int, ...] = Field((1,), min_length=1, max_length=2)
    note: str = Field("", max_length=3)
    inner: "Sample | None" = None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"count": "x"}, "count: 'x' is not a whole number"),
        ({"count": 1.5}, "count: 1.5 is not a whole number"),
        ({"count": 0}, "count: 0 is too small; give at least 1"),
        ({"count": 10}, "count: 10 is too large; give at most 9"),
        ({"share": "x"}, "share: 'x' is not a number; write one, as in 0.05"),
        ({"share": 0}, "share: 0 is too small; give more than 0"),
        ({"share": 1}, "share: 1 is too large; give less than 1"),
        ({"share": float("nan")}, "share: nan is not a finite number"),
        ({"name": "A"}, "name: 'A' is not valid here; write small letters"),
        ({"name": "a\n"}, "name: 'a\\n' is not valid here; write small letters"),
        ({"name": 3}, "name: 3 is not text"),
        ({"kind": "c"}, "kind: 'c' is not one of 'a' or 'b'"),
        ({"on": "perhaps"}, "on: 'perhaps' is not true or false"),
        ({"some": "1,2"}, "some: '1,2' is not a list; write a list, as in [1, 2]"),
        ({"some": []}, "some: it has 0 values; give at least 1"),
        ({"some": [1, 2, 3]}, "some: it has too many values; give at most 2"),
        ({"note": "abcd"}, "note: it has more than 3 characters"),
        ({"inner": {"count": 0}}, "inner.count: 0 is too small; give at least 1"),
        ({"inner": 3}, "inner: 3 has no fields"),
        ({"more": 1}, "the field more does not exist"),
        ({"kind": "x" * 999}, f"kind: '{'x' * 37}...{'x' * 38}' is not one of 'a' or 'b'"),
    ],
)
def test_problem_is_told_in_plain_words(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Sample.model_validate(given)
    assert first_problem(caught.value) == says


def test_unknown_field_comes_before_missing_field() -> None:
    class Needs(Document):
        name: str

    with pytest.raises(ValidationError) as caught:
        Needs.model_validate({"nam": "a"})
    assert first_problem(caught.value, known={"name": "name"}) == (
        "the field nam does not exist; write name"
    )


def test_reason_is_one_line_that_starts_at_a_word() -> None:
    try:
        int("x")
    except ValueError:
        assert brief(traceback.format_exc()) == (
            "ValueError: invalid literal for int() with base 10: 'x'"
        )
    assert brief("Docker:\n  gone") == "Docker: gone"
    long = brief("a long line of words " * 30)
    assert (
        len(long) <= 304 and long.startswith("... ") and long.split()[1] in "a long line of words"
    )
    assert brief("") == ""


def test_environment_variable_with_a_wrong_value_is_named() -> None:
    words = ["plan", "ci/experiments/demo.toml"]
    done = CliRunner().invoke(main, words, env={"KVCI_DISK_BUDGET": "20X"})
    assert done.exit_code == 2
    assert "The environment variable KVCI_DISK_BUDGET is not valid: " in done.output
    done = CliRunner().invoke(main, [*words, "--disk-budget", "20X"])
    assert "environment" not in done.output


@pytest.mark.parametrize(
    "words", [["record", "--benchmarks"], ["record", "--check", "--benchmarks"]]
)
def test_missing_file_of_rows_names_the_remedy(words: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [*words, str(tmp_path / "B4.md")])
    assert done.exit_code == 2 and "check the path" in done.output
