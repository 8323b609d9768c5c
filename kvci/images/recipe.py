"""What an instance's image needs besides its repository, read from a TOML file."""

import tomllib
from functools import cache
from pathlib import Path

from pydantic import ValidationError

from kvci.errors import UserError
from kvci.files import Document, first_problem

SHIPPED = Path(__file__).with_name("recipes.toml")


class Recipe(Document):
    """What some versions of one repository need: pip packages, and shell commands in /testbed."""

    repository: str
    versions: tuple[str, ...]
    suite: str
    """The Debian release whose Python the image takes."""
    packages: tuple[str, ...]
    before: str = "true"
    """Runs before `install`."""
    install: str = "pip install -q --no-build-isolation -e ."


class _RecipeFile(Document):
    recipe: tuple[Recipe, ...]


@cache
def recipes(path: Path = SHIPPED) -> dict[tuple[str, str], Recipe]:
    """(repository, version) -> the recipe of its images. Raises UserError."""
    try:
        found = _RecipeFile.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise UserError(f"The recipe file {path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise UserError(f"The recipe file {path} is not valid: {first_problem(error)}.") from None
    return {(one.repository, version): one for one in found.recipe for version in one.versions}
