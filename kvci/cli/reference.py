"""The reference of experiment files, generated from the fields of a specification.

`python -m kvci.cli.reference > ci/experiments/README.md` writes it again.
"""

from kvci.options import Option, options
from kvci.report.tables import table
from kvci.spec import GROUPS

HEAD = """# Experiment files

A TOML file with the fields below is an experiment: `kvci run ci/experiments/NAME.toml` runs it, and
the workflows take its name. `demo.toml` is an example; `nightly.toml` lists what nightly.yml runs.

Durations and sizes have units: `45s`, `90m`, `5h`, `512MiB`, `20GB`. The command line has an option
of the same name for each field, and an option wins over the file.
"""


def reference() -> str:
    """The Markdown text."""
    lines = [HEAD]
    for group in GROUPS:
        rows = [_row(one) for one in options() if one.group == group]
        lines += [f"## {group}", "", *table(("Field", "Option", "Meaning", "Default"), rows), ""]
    return "\n".join(lines)


def _row(one: Option) -> tuple[str, str, str, str]:
    return f"`{one.name}`", f"`{one.flags[0]}`", one.help, one.default or "required"


if __name__ == "__main__":
    print(reference(), end="")
