"""Docker images for the tests, made from Debian's packages without an image registry."""

import hashlib
import io
import os
import tarfile
import tempfile
from importlib import metadata
from typing import NoReturn

import pytest

from kvci.docker import engine
from kvci.errors import UserError
from kvci.images.base import debian
from kvci.images.image_build import ACTIVATE, ENVIRONMENT, build
from kvci.sandbox import TREE
from kvci.tasks import calibration, row
from tests.conftest import data

WHO = ("AUTHOR", "COMMITTER")
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


IDENTITY = {
    **{f"GIT_{who}_{what}": "x@localhost" for who in WHO for what in ("NAME", "EMAIL")},
    **{f"GIT_{who}_DATE": "2020-01-01T00:00:00Z" for who in WHO},
}
"""Variables that give a commit of the same files the same id."""
COMMIT = "git init -q -b main && git add --all && git commit -qm base"
DOCKERFILE = f"""
FROM {calibration.IMAGE}
COPY activate /opt/miniconda3/bin/activate
RUN python3 -m venv --without-pip {ENVIRONMENT} && rm -f /etc/python3.11/sitecustomize.py
COPY packages {ENVIRONMENT}/lib/python3.11/site-packages
COPY pytest {ENVIRONMENT}/bin/pytest
COPY testbed {TREE}
ENV {" ".join(f"{name}={value}" for name, value in IDENTITY.items())}
RUN cd {TREE} && {COMMIT}
"""
PYTEST = f"#!{ENVIRONMENT}/bin/python3\nimport sys\nimport pytest\nsys.exit(pytest.main())\n"


def small_image(texts: dict[str, str]) -> str:
    """An image with the layout of SWE-bench's images: these files in /testbed, in one commit.

    The packages of its pytest are those of this environment.
    """
    calibration_image()
    with tempfile.TemporaryFile() as context:
        with tarfile.open(fileobj=context, mode="w") as files:
            for name, text in (("Dockerfile", DOCKERFILE), ("activate", ACTIVATE)):
                _add(files, name, text.encode())
            _add(files, "pytest", PYTEST.encode(), 0o755)
            for package in ("pytest", "pluggy", "iniconfig", "packaging", "pygments"):
                for path in metadata.files(package) or ():
                    if path.parts[0] != ".." and path.suffix != ".pyc":
                        _add(files, f"packages/{path}", path.read_binary())
            _add(files, "packages/testbed.pth", TREE.encode())  # as `pip install -e .` makes
            for path_in_tree, text in texts.items():
                _add(files, f"testbed/{path_in_tree}", text.encode(errors="surrogateescape"))
        context.seek(0)
        name = f"kvci-test/small:{hashlib.file_digest(context, 'sha256').hexdigest()[:12]}"
        context.seek(0)
        if not engine.has(name):
            engine.client().images.build(fileobj=context, custom_context=True, tag=name, rm=True)
    return name


def _add(files: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    files.addfile(member, io.BytesIO(content))
