"""Remove secrets, folders and names from text that is published."""

import getpass
import platform
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kvci.record.secrets import SECRET
from kvci.sandbox import TREE

ABSOLUTE = r"(?:(?<![\w.\])}-])|(?<=(?<!\w)-[A-Z])|(?<=\\[nrt])|(?<=[\d\[]m))"
"""What is in front of an absolute path: no word, a flag as in -I/home, an escape, or a color."""
PERSON = r"[^\s/:'\"\\]+"
HOME = re.compile(
    rf"(?:{ABSOLUTE}|(?<=[\])}}-])(?<!\[run\])(?<!\[home\]))"
    rf"(?:/(?:var|usr|export|mnt|net|nfs|srv|data|mnt/\w))?/(?:home|Users)/{PERSON}"
    rf"|{ABSOLUTE}/root(?![\w.-])"
    rf"|(?<=\.\./)\.\./(?:home|Users)/{PERSON}"
    rf"|(?<!\w)[A-Za-z]:(?:\\{{1,2}}|/)Users(?:\\{{1,2}}|/){PERSON}"
)
"""Home folders. A relative one counts if it leaves two folders or more."""
PATH = re.compile(rf"{ABSOLUTE}(?!{TREE}\b)/[^\s:'\"\\]+")
"""An absolute path outside the work tree of a sandbox, in which a name belongs to the tests."""
NAMED = re.compile(
    r"\b(?:uid|gid|groups)=\d+\([^\s)]+\)(?:,\d+\([^\s)]+\))*"
    r"|\b(?:USER|LOGNAME|USERNAME|HOST|HOSTNAME)=\S+|\bLinux \S+"
    r"|(?<!\S)[-bcdlps][-rwxsStT]{9}[.+@]?\s+\d+\s+\S+\s+\S+"
)
"""Output of programs that name the user or the machine: id, env, uname and ls."""
COMMON = frozenset({"", "root", "localhost"})
"""Names that tell nothing."""
PLACEHOLDERS = ("[token]", "[run]", "[home]", "[host]", "[user]")


def redact(text: str, run: Path, names: bool = True, keep: Iterable[str] = ()) -> str:
    """Return the text with placeholders for tokens, the run's folder and home folders.

    If `names` is true, placeholders also replace the names of the machine and the user, but only
    where they stand as a name: in an absolute path, next to an @, in an address, and in `NAMED`. A
    user may be called `tests`, and a machine `passed`. The words in `keep` stay as they are.
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
    text = SECRET.sub("[token]", text)
    text = re.sub(rf"{re.escape(str(run.resolve()))}(?![\w.-])", "[run]", text)
    if (home := Path.home()) != Path("/"):
        text = re.sub(rf"{ABSOLUTE}{re.escape(str(home))}(?![\w.-])", "[home]", text)
    text = HOME.sub("[home]", text)
    for name, placeholder in _names() if names else ():
        text = _without_name(text, rf"(?<!\w){re.escape(name)}(?!\w)", placeholder)
    return text


def _without_name(text: str, name: str, placeholder: str) -> str:
    """Return the text without a name where it stands as a name. `name` is a regular expression."""
    for place in (PATH, NAMED):
        text = place.sub(lambda found: re.sub(name, placeholder, found[0]), text)
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
