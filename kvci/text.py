"""Make text from outside inert: one function for each place where people read it.

Records, evidence, datasets, logs, answers of a model or of GitHub, and BENCHMARKS.md may contain
anything. In a terminal, escape sequences change what a person sees. In the log of a job, a line may
be a command to the workflow. On GitHub, text mentions users, closes issues and shows links.
"""

import html as html_library
import os
import re
import sys
from typing import TextIO

ACTIVE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\ud800-\udfff"
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2060-\u206f\u3164"
    r"\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
    r"|(?<![^\x00-\x7f])[\u200c\u200d\ufe00-\ufe0f]"
)
"""Control characters except tab and line feed, line separators, characters that change the
direction of text, characters that nothing shows (Unicode: Default_Ignorable_Code_Point), and halves
of surrogate pairs, which cannot be written. Joiners and variation selectors are parts of emoji and
of some scripts, so they count only after an ASCII character or at the start."""

ORDINARY = re.compile(
    r"(?![=>]|[-+](?![\w.])|\d+[.)](?!\S))"
    r"(?:[^\W_]|[ .,:;%()/+'\"=?!^>-]|(?<=[^\W_])_+(?=[^\W_])|(?<=\bpass)@(?=k(?![\w-]|\.\w)))*"
)
"""Text that means nothing in Markdown, and nothing to GitHub except for `LINKED`."""
LINKED = re.compile(
    r"://|www\.|(?<![^\W_])(?:GH|GHSA|CVE)-|(?<!\d):\d+:|:[\w+-]*[a-z_+-][\w+-]*:", re.I
)
"""Addresses, issues, advisories and emoji, which GitHub recognizes in ordinary text."""


class Markdown(str):
    """Text that is Markdown on purpose."""

    __slots__ = ()


def markdown(text: str) -> Markdown:
    """Return the text as one line of Markdown that reads as written.

    Ordinary text stays as it is. Any other text becomes code, because GitHub interprets nothing in
    code. A backslash or an entity would not do: GitHub looks for mentions after it has read them.
    """
    if isinstance(text, Markdown):
        return text
    line = " ".join(terminal(text).split())
    ordinary = ORDINARY.fullmatch(line) and not LINKED.search(line)
    return Markdown(line) if ordinary or not line else code(line)


def code(text: str) -> Markdown:
    """Return the text as code in one line of Markdown."""
    line = " ".join(terminal(text).split())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if len(fence) > 1 else ""
    return Markdown(f"{fence}{space}{line}{space}{fence}")


def html(text: str) -> str:
    """Return the text for HTML, as code, in which GitHub looks for no mention and no address."""
    return f"<code>{html_library.escape(' '.join(terminal(text).split()))}</code>"


def plain(text: str) -> str:
    """Return one line for a title or a message of a commit, which have no code.

    A character without width breaks what GitHub would recognize as a mention, an issue or an
    address.
    """
    line = " ".join(terminal(text).split())
    return re.sub(
        r"(?i)[@#`]|:(?=//)|www(?=\.)|(?<![^\W_])(?:GH|GHSA|CVE)(?=-)", "\\g<0>\u200b", line
    )


def terminal(text: str) -> str:
    """Return the text for a terminal: a control character is shown as `\\x1b`."""
    shown = text.replace("\r\n", "\n")
    return ACTIVE.sub(lambda found: found[0].encode("unicode_escape").decode(), shown)


def job_log(text: str) -> str:
    """Return the text for the log of a job: in addition, no line is a workflow command.

    The runner runs `::name::` at the start of a line, after white space, and `##[name]` anywhere in
    a line.
    """
    return _without_commands(terminal(text))


def _without_commands(text: str) -> str:
    """Return a text without control characters, with a space in each sign of a command.

    What the function returns for the start of a text is the start of what it returns for the text.
    """
    return re.sub(r"^([^\S\n]*:)(?=:)", r"\1 ", text, flags=re.M).replace("##[", "## [")


def in_job() -> bool:
    """True in a job of GitHub Actions."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


class Guarded:
    """The standard output, or the standard error, that shows only inert text.

    A carriage return at the start of a write stays on a terminal, because it draws a progress bar.
    """

    def __init__(self, stream: TextIO, job: bool) -> None:
        self.stream, self.job = stream, job
        self._line = ""
        """The part of the last line that decides whether the next characters make a command."""

    def write(self, text: str) -> int:
        redraws = text.startswith("\r") and not text.startswith("\r\n")
        shown = terminal(text[redraws:])
        if redraws:
            shown = ("\n" if self.job or not self.isatty() else "\r") + shown
        if self.job:
            whole = self._line + shown
            shown = _without_commands(whole)[len(_without_commands(self._line)) :]
            last = whole.rpartition("\n")[2].lstrip()
            self._line = last if len(last) < 3 else f"x{last[-2:]}"
        self.stream.write(shown)
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    @property
    def encoding(self) -> str:
        return self.stream.encoding

    @property
    def errors(self) -> str | None:
        return self.stream.errors

    @property
    def closed(self) -> bool:
        return self.stream.closed


def guard_streams() -> None:
    """Make everything inert that this process prints, tracebacks included.

    No code can forget to call a function, and no library goes around it. kvci itself writes no
    workflow command.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream and not isinstance(stream, Guarded):
            setattr(sys, name, Guarded(stream, in_job()))
