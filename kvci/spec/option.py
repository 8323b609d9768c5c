"""Declare the fields of a specification, so that the command line can offer them as options."""

from typing import Any

from pydantic import Field

EXPERIMENT, SERVER, AGENT, SANDBOX = "Experiment", "Server", "Agent", "Sandbox"
GRADING, CLAIMS, IMAGES, RUN = "Grading", "Claims", "Docker images", "This run"
GROUPS = (EXPERIMENT, SERVER, AGENT, SANDBOX, GRADING, CLAIMS, IMAGES, RUN)
"""The groups of options, in the order of the help."""


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
    """Return a field that the command line offers as an option.

    The option's names are `flags`, or the field's own name if `flags` is empty. `default_text` says
    in words what happens without a value. `since` is the schema version that adds the field
    (`kvci/versioned.py`). All other arguments go to pydantic's Field.
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
