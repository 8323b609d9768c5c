"""Reads a TOML file with what an instance's image needs in addition to its repository."""

import tomllib
from functools import cache
from pathlib import Path

from kvci.errors import UserError
from kvci.files import Document
from kvci.problems import first_problem

SHIPPED = Path(__file__).with_name("recipes.toml")


class Recipe(Document):
    """The needs of some versions of a repository: pip packages, and shell commands in /testbed."""

    repository: str
    versions: tuple[str, ...]
    suite: str
    """The Debian release of the image, which decides the version of Python."""
    packages: tuple[str, ...]
    before: str = "true"
    """The command that runs before `install`."""
    install: str = "pip install -q --no-build-isolation -e ."


class _RecipeFile(Document):
    recipe: tuple[Recipe, ...]


@cache
def recipes(path: Path = SHIPPED) -> dict[tuple[str, str], Recipe]:
    """Return (repository, version) -> the recipe of the images.

    Raises UserError if the file cannot be read or is not valid.
    """
    try:
        found = _RecipeFile.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise UserError(
            f"The recipe file {path} cannot be read ({error.strerror}); check the path."
        ) from None
    except ValueError as error:  # not UTF-8, not TOML, or not a recipe
        raise UserError(
            f"The recipe file {path} is not valid ({first_problem(error)}); correct it."
        ) from None
    return {(one.repository, version): one for one in found.recipe for version in one.versions}
