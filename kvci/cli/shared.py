"""Options that commands of several groups have."""

import rich_click as click

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
