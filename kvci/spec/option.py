"""How a field of a specification is declared, so that the command line can offer it."""

from typing import Any

from pydantic import Field

EXPERIMENT, SERVER, AGENT, SANDBOX = "Experiment", "Server", "Agent", "Sandbox"
GRADING, CLAIMS, IMAGES, RUN = "Grading", "Claims", "Docker images", "This run"
GROUPS = (EXPERIMENT, SERVER, AGENT, SANDBOX, GRADING, CLAIMS, IMAGES, RUN)
"""Groups of options, in the order of the help."""


def option(
    default: Any = ...,
    *,
    help: str,
    group: str,
    flags: tuple[str, ...] = (),
    metavar: str = "",
    envvar: str = "",
    default_text: str = "",
    since: int = 1,
    **field: Any,
) -> Any:
    """A field that the command line offers, under `flags` or else under its own name.

    `default_text` says in words what an absent value means. `since` is the schema version that adds
    the field (`kvci/versioned.py`). All else goes to pydantic's Field.
    """
    shown: dict[str, Any] = {
        "group": group,
        "flags": list(flags),
        "metavar": metavar,
        "envvar": envvar,
        "default_text": default_text,
        "since": since,
    }
    return Field(default, description=help, json_schema_extra=shown, **field)
