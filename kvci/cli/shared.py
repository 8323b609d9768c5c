"""Options that commands of several groups have."""

import json
from typing import Any

import rich_click as click
from pydantic_core import to_jsonable_python

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
RUNS = click.option(
    "--out",
    envvar="KVCI_RUNS",
    default="runs",
    show_default=True,
    metavar="FOLDER",
    help="Folder that contains the run folders.",
)
REPOSITORY = click.option(
    "--repository",
    envvar="GITHUB_REPOSITORY",
    required=True,
    metavar="OWNER/NAME",
    help="The repository on GitHub.",
)


def json_text(value: Any) -> str:
    """Return a document, or a collection of documents, as JSON in ASCII, which is inert."""
    return json.dumps(to_jsonable_python(value, inf_nan_mode="null"), indent=1)
