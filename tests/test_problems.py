"""Every problem of a value is told in kvci's words, never in pydantic's."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from kvci.files import Document
from kvci.problems import first_problem, matching


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
