"""Take out of a text what a published record must not tell."""

import getpass
import platform
import re
from pathlib import Path
from typing import Any

TOKEN = re.compile(
    r"(?:\b|(?<=\\[nrt]))(gh[pousr]_\w{16,}|github_pat_\w{16,}|hf_\w{16,}|sk-[\w-]{16,}"
    r"|xox[abpr]-[\w-]{10,}|AKIA[0-9A-Z]{16})|(?<=[Bb]earer )[\w.~+/=-]{8,}"
    r"|(?<=://)[^\s/@:\"'\\]+:[^\s/@\"'\\]+(?=@)"
)
HOME = re.compile(r"/(?:home|Users)/[^\s/:'\"\\]+|/root(?=/|\b)")


SHOWN = ("[token]", "[run]", "[home]", "[host]", "[user]")
"""In place of what is taken out."""
PROSE = frozenset({"detail", "why"})
"""Fields of the run directory's documents that hold what a program said."""


def redact(text: str, run: Path, names: bool = True, after: str = "") -> str:
    """Tokens, the run's folder, home folders, and the machine's and the user's `names`; where
    `after` is given, names that follow one of its characters alone."""
    text = TOKEN.sub("[token]", text)
    text = text.replace(str(run.resolve()), "[run]")
    text = text.replace(str(Path.home()), "[home]") if Path.home() != Path("/") else text
    text = HOME.sub("[home]", text)
    for name, shown in ((platform.node(), "[host]"), (_user(), "[user]")):
        if names and name and name != "root":
            before = f"(?<=[{after}])" if after else r"(?<!\w)"
            text = re.sub(rf"{before}{re.escape(name)}(?!\w)", shown, text)
    return text


def redact_json(value: Any, run: Path, names: bool = False) -> Any:
    """The texts in a JSON value; its keys are the schema's and stay.

    Names go from prose and paths alone, unless `names`: a user may be called as a model is, and a
    model's name is what the record is of.
    """
    if isinstance(value, str):
        return redact(value, run, names or value.startswith("/"))
    if isinstance(value, list):
        return [redact_json(one, run, names) for one in value]
    if isinstance(value, dict):
        return {key: redact_json(one, run, names or key in PROSE) for key, one in value.items()}
    return value


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
