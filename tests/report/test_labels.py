import pytest

from kvci.report.labels import with_class_names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("OK", "OK resolved"),
        ("A11a", "A11a failing tests still fail"),
        ("baseline I3 and arm I3", "baseline I3 grading and arm I3 grading"),
        ("OK/A6 (not graded)", "OK resolved or A6 empty patch (not graded)"),
        (
            "A8-A11 (unsplit)",
            "A8 syntax or A9 wrong file or A11a failing tests still fail or A11b passing tests "
            "broke (unsplit)",
        ),
        ("the pair crosses a block", "the pair crosses a block"),
    ],
)
def test_labels_name_each_class(text: str, expected: str) -> None:
    assert with_class_names(text) == expected
