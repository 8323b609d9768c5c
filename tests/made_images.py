"""Docker images for the tests, made from Debian's packages without an image registry."""

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
    """The image of the calibration suite; skips if it cannot be made, and fails if CI=true."""
    try:
        engine.check()
    except UserError as error:
        pytest.skip(str(error))
    try:
        return debian(calibration.IMAGE, "bookworm", "git,patch,python3")
    except UserError as error:
        skip_or_fail(str(error))


def real_images(*names: str) -> None:
    """The images of real instances of SWE-bench Lite; skips without Docker or the data."""
    calibration_image()
    rows = [each for each in row.load(data(ROWS)) if each.instance_id in names]
    for result in build(rows, data("repos")):
        assert not result.why, result


def skip_or_fail(why: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(f"{why}; with CI=true and a running Docker no test is skipped")
    pytest.skip(why)
