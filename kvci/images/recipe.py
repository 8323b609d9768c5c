"""What an instance's image needs beside its repository, as data."""

import tomllib
from functools import cache
from pathlib import Path

from pydantic import ValidationError

from kvci.errors import UserError
from kvci.files import Document, first_problem

SHIPPED = Path(__file__).with_name("recipes.toml")


class Recipe(Document):
    """Of some versions of one repository, in the words of pip and of a shell in /testbed."""

    repository: str
    versions: tuple[str, ...]
    suite: str
    """The Debian release whose Python it takes."""
    packages: tuple[str, ...]
    before: str = "true"
    install: str = "pip install -q --no-build-isolation -e ."


class _Book(Document):
    recipe: tuple[Recipe, ...]


@cache
def recipes(path: Path = SHIPPED) -> dict[tuple[str, str], Recipe]:
    """(repository, version) -> what its images need. Raises UserError."""
    try:
        book = _Book.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise UserError(f"The recipes {path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise UserError(f"The recipes {path} are not valid: {first_problem(error)}.") from None
    return {(one.repository, version): one for one in book.recipe for version in one.versions}
