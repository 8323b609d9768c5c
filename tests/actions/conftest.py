"""A fake of GitHub."""

from collections.abc import Iterator

import pytest

from tests.publish.fake_github import Fake, serving


@pytest.fixture
def fake() -> Iterator[Fake]:
    with serving() as one:
        yield one
