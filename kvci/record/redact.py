"""Remove secrets, folders and names from text that is published."""

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
PLACEHOLDERS = ("[token]", "[run]", "[home]", "[host]", "[user]")
FREE_TEXT = frozenset({"detail", "why"})
"""Fields of the run directory's documents that may contain a program's output."""


def redact(text: str, run: Path, names: bool = True, after: str = "") -> str:
    """Return the text with placeholders for tokens, the run's folder and home folders.

    If `names` is true, placeholders also replace the names of the machine and the user. If `after`
    is given, a name is replaced only if it follows one of the characters of `after`.
    """
    text = TOKEN.sub("[token]", text)
    text = text.replace(str(run.resolve()), "[run]")
    text = text.replace(str(Path.home()), "[home]") if Path.home() != Path("/") else text
    text = HOME.sub("[home]", text)
    for name, placeholder in ((platform.node(), "[host]"), (_user(), "[user]")):
        if names and name and name != "root":
            before = f"(?<=[{after}])" if after else r"(?<!\w)"
            text = re.sub(rf"{before}{re.escape(name)}(?!\w)", placeholder, text)
    return text


def redact_json(value: Any, run: Path, names: bool = False) -> Any:
    """Return a JSON value with its texts redacted; keys stay, because the schema defines them.

    If `names` is false, names are removed only from free text and absolute paths. The reason: a
    user may have the same name as a model, and the model's name must stay.
    """
    if isinstance(value, str):
        return redact(value, run, names or value.startswith("/"))
    if isinstance(value, list):
        return [redact_json(one, run, names) for one in value]
    if isinstance(value, dict):
        return {key: redact_json(one, run, names or key in FREE_TEXT) for key, one in value.items()}
    return value


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
