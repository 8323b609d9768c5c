"""Docker images for the tests, made from Debian's packages: no image registry is asked."""

import os
from typing import NoReturn

import pytest

from kvci.docker import engine
from kvci.errors import UserError
from kvci.images.base import debian
from kvci.images.build import build
from kvci.tasks import calibration, row
from tests.conftest import data

ROWS = "swe-bench-lite.v5.jsonl"


def calibration_image() -> str:
    """The image of the calibration suite; skips where it cannot be made, with CI=true fails."""
    try:
        engine.check()
    except UserError as error:
        pytest.skip(str(error))
    try:
        return debian(calibration.IMAGE, "bookworm", "git,patch,python3")
    except UserError as error:
        cannot(str(error))


def real_images(*names: str) -> None:
    """The images of real instances of SWE-bench Lite; skips without Docker or the data."""
    calibration_image()
    rows = [each for each in row.load(data(ROWS)) if each.instance_id in names]
    for built in build(rows, data("repos")):
        assert not built.why, built


def cannot(why: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(f"{why}, and with CI=true and Docker running nothing is skipped")
    pytest.skip(why)
