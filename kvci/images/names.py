"""Names of images: their parts, and the forms that the engine and a mirror use."""

import re

from docker.auth import resolve_repository_name
from docker.errors import InvalidRepository
from docker.utils import parse_repository_tag

from kvci.errors import UserError

HUB = "docker.io"


def parse_name(image: str) -> tuple[str, str, str]:
    """Registry, repository and tag of an image's name."""
    name, tag = parse_repository_tag(image)
    registry, repository = resolve_repository_name(name)
    if registry == HUB and "/" not in repository:
        repository = f"library/{repository}"
    return registry, repository, tag or "latest"


def repository_and_tag(image: str) -> tuple[str, str]:
    """The two parts that the engine's API takes; the first includes the registry."""
    name, tag = parse_repository_tag(image)
    return name, tag or "latest"


def engine_name(image: str) -> str:
    """The image's name as the engine lists it, whatever form the dataset uses.

    Raises UserError if the name is not valid. It also does for a digest, because a stripped image
    must take the name, and no other image can take a digest.
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
    """The image's name at the mirror, which has the same repositories; the same without one."""
    if mirror is None:
        return image
    _, repository, tag = parse_name(image)
    return f"{mirror}/{repository}:{tag}"
