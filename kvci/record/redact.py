"""Remove secrets, folders and names from text that is published."""

import getpass
import platform
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kvci.sandbox import TREE

TOKEN = re.compile(
    r"(?:\b|(?<=\\[nrt]))(gh[pousr]_\w{16,}|github_pat_\w{16,}|hf_\w{16,}|sk-[\w-]{16,}"
    r"|xox[abpr]-[\w-]{10,}|AKIA[0-9A-Z]{16})|(?<=[Bb]earer )[\w.~+/=-]{8,}"
    r"|(?<=://)[^\s/@:\"'\\]+:[^\s/@\"'\\]+(?=@)"
)
ABSOLUTE = r"(?:(?<![\w.\])}-])|(?<=(?<!\w)-[A-Z])|(?<=\\[nrt])|(?<=[\d\[]m))"
"""What is in front of an absolute path: no word, a flag as in -I/home, an escape, or a color."""
HOME = re.compile(rf"{ABSOLUTE}(?:/(?:home|Users)/[^\s/:'\"\\]+|/root(?![\w.-]))")
PATH = re.compile(rf"{ABSOLUTE}(?!{TREE}\b)/[^\s:'\"\\]+")
"""An absolute path outside the work tree of a sandbox, in which a name belongs to the tests."""
COMMON = frozenset({"", "root", "localhost"})
"""Names that tell nothing."""
PLACEHOLDERS = ("[token]", "[run]", "[home]", "[host]", "[user]")


def redact(text: str, run: Path, names: bool = True, keep: Iterable[str] = ()) -> str:
    """Return the text with placeholders for tokens, the run's folder and home folders.

    If `names` is true, placeholders also replace the names of the machine and the user, but only
    where they stand as a name: in an absolute path, next to an @, and in an address. A user may be
    called `tests`, and a machine `passed`. The words in `keep` stay as they are.
    """
    kept = [word for word in keep if _redact(word, run, names) != word]
    if not kept:
        return _redact(text, run, names)
    longest_first = sorted(map(re.escape, kept), key=len, reverse=True)
    parts = re.split(f"({'|'.join(longest_first)})", text)
    return "".join(
        part if number % 2 else _redact(part, run, names) for number, part in enumerate(parts)
    )


def redact_json(value: Any, run: Path) -> Any:
    """Return a JSON value with its texts redacted; keys stay, because the schema defines them."""
    if isinstance(value, str):
        return redact(value, run)
    if isinstance(value, list):
        return [redact_json(one, run) for one in value]
    if isinstance(value, dict):
        return {key: redact_json(one, run) for key, one in value.items()}
    return value


def _redact(text: str, run: Path, names: bool) -> str:
    text = TOKEN.sub("[token]", text)
    text = re.sub(rf"{re.escape(str(run.resolve()))}(?![\w.-])", "[run]", text)
    if (home := Path.home()) != Path("/"):
        text = re.sub(rf"{ABSOLUTE}{re.escape(str(home))}(?![\w.-])", "[home]", text)
    text = HOME.sub("[home]", text)
    for name, placeholder in _names() if names else ():
        text = _without_name(text, rf"(?<!\w){re.escape(name)}(?!\w)", placeholder)
    return text


def _without_name(text: str, name: str, placeholder: str) -> str:
    """Return the text without a name where it stands as a name. `name` is a regular expression."""
    text = PATH.sub(lambda path: re.sub(name, placeholder, path[0]), text)
    beside_at = rf"{name}(?=@[\w\[])|(?<=@){name}"
    address = rf"(?<=//){name}|(?<![\w./-]){name}(?=:\d\d)"
    return re.sub(f"{beside_at}|{address}", placeholder, text)


def _names() -> Iterator[tuple[str, str]]:
    """Yield this machine's and this user's names, the longest form of a name first."""
    node = platform.node()
    for name in dict.fromkeys((node, node.partition(".")[0])):
        if name not in COMMON:
            yield name, "[host]"
    if (user := _user()) not in COMMON:
        yield user, "[user]"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
