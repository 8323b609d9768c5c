"""The ways in which a pull can fail, recognised by the engine's message."""

LIMITED = ("toomanyrequests", "too many requests", "rate limit")
ABSENT = ("manifest unknown", "name unknown", "invalid reference format")
DENIED = ("access denied", "unauthorized", "authentication required")
NO_SPACE = ("no space left on device",)


class PullFailed(Exception):
    """The pull failed. Another try may succeed."""


class EngineAway(PullFailed):
    """Docker does not answer."""


class AccessDenied(PullFailed):
    """The registry denies access; Docker Hub also does this for images that do not exist."""


class RateLimited(PullFailed):
    """The registry's limit of pulls is reached."""


class ImageAbsent(PullFailed):
    """The registry does not have the image; another try changes nothing."""


class NoSpace(PullFailed):
    """The pull would use space of the disk's reserve."""


class OverBudget(PullFailed):
    """The pull would use more than the disk budget; the image is pulled in a later wave."""


def failure(message: str) -> PullFailed:
    """Return the failure that the engine's message describes."""
    text, low = " ".join(message.split())[:300], message.lower()
    if any(words in low for words in LIMITED):
        return RateLimited(text)
    if any(words in low for words in NO_SPACE):
        return NoSpace(text)
    if any(words in low for words in DENIED):
        return AccessDenied(
            "access denied; Docker Hub also says this if the image does not exist "
            f"({text}); check the image's name, and log in with docker login"
        )
    if any(words in low for words in ABSENT):
        return ImageAbsent(text)
    return PullFailed(text)
