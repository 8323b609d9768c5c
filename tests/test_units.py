import pytest

from kvci import units


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45s", 45), ("90m", 5400), ("5h", 18000), ("1h30m", 5400), ("1.5h", 5400), ("2d", 172800)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert units.seconds(text) == seconds
    assert units.seconds(units.duration(seconds)) == seconds


@pytest.mark.parametrize("bare", [90, 90.5, "90", "9e1"])
def test_bare_number_keeps_unit_of_field(bare: float | str) -> None:
    assert units.seconds(bare) == units.minutes(bare) == bare
    assert units.gigabytes(bare) == bare
    assert units.mebibytes("9e1") == "9e1" and units.mebibytes(90) == 90


def test_minutes_and_sizes_are_read() -> None:
    assert (units.minutes("5h"), units.minutes("90m")) == (300, 90)
    assert (units.gigabytes("20GB"), units.gigabytes("500MB")) == (20.0, 0.5)
    assert (units.mebibytes("4GiB"), units.mebibytes("512MiB")) == (4096, 512)
    assert units.mebibytes("4GB") == 3814


@pytest.mark.parametrize(
    ("read", "text", "says"),
    [
        (units.seconds, "soon", "is not a duration"),
        (units.seconds, "5 weeks", "is not a duration"),
        (units.seconds, "", "is not a duration"),
        (units.minutes, "90s", "whole number of minutes"),
        (units.gigabytes, "much", "is not a size"),
        (units.mebibytes, "4 GX", "is not a size"),
        (units.mebibytes, "8Mbit", "is not a size"),
        (units.gigabytes, "20 bit", "is not a size"),
        (units.mebibytes, "100.5", "is not a whole number of MiB; write it as 512MiB"),
    ],
)
def test_wrong_units_are_explained(read: object, text: str, says: str) -> None:
    assert callable(read)
    with pytest.raises(ValueError, match=says):
        read(text)


def test_values_are_shown_as_people_write_them() -> None:
    assert [units.duration(s) for s in (3600.0, 5400.0, 45.5, 86400.0)] == [
        "1h",
        "1h30m",
        "45.5s",
        "1d",
    ]
    assert (units.mib(4096), units.mib(512), units.gb(10.0)) == ("4GiB", "512MiB", "10GB")
