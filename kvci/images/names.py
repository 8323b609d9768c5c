"""Splits names of images, and makes the forms that the engine and a mirror use."""

import re

from docker.auth import resolve_repository_name
from docker.errors import InvalidRepository
from docker.utils import parse_repository_tag

from kvci.errors import UserError

HUB = "docker.io"


def parse_name(image: str) -> tuple[str, str, str]:
    """Return registry, repository and tag of an image's name."""
    name, tag = parse_repository_tag(image)
    registry, repository = resolve_repository_name(name)
    if registry == HUB and "/" not in repository:
        repository = f"library/{repository}"
    return registry, repository, tag or "latest"


def repository_and_tag(image: str) -> tuple[str, str]:
    """Return the two parts that the engine's API expects. The first part includes the registry."""
    name, tag = parse_repository_tag(image)
    return name, tag or "latest"


def engine_name(image: str) -> str:
    """Return the image's name in the form in which the engine lists it.

    Raises UserError if the name is not valid or contains a digest. A digest is refused because the
    stripped image must get the name, and only the original image can have its digest.
    """
    try:
        registry, repository, tag = parse_name(image)
    except InvalidRepository as error:
        raise UserError(
            f"{image} is not a valid image name ({error}); correct it in the dataset."
        ) from None
    if not re.fullmatch(r"[a-z0-9]+(([._-]+|/)[a-z0-9]+)*", repository, re.ASCII):
        raise UserError(f"{image!r} is not a valid image name; correct it in the dataset.")
    if ":" in tag:
        raise UserError(f"{image} names a digest; name the image by a tag in the dataset.")
    if registry == HUB:
        return f"{repository.removeprefix('library/')}:{tag}"
    return f"{registry}/{repository}:{tag}"


def mirrored(image: str, mirror: str | None) -> str:
    """Return the image's name at the mirror; without a mirror, return the name itself."""
    if mirror is None:
        return image
    _, repository, tag = parse_name(image)
    return f"{mirror}/{repository}:{tag}"
