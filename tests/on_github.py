"""What GitHub makes of Markdown: what is active in it, and what a person reads."""

import re
from collections.abc import Iterator

from markdown_it import MarkdownIt
from markdown_it.token import Token

PARSER = MarkdownIt("gfm-like")
assert PARSER.linkify
PARSER.linkify.set({"fuzzy_link": False})  # GitHub shows no link for a name like BENCHMARKS.md
RECOGNIZED = re.compile(
    r"(?<!\w)@\w|#\d|\bGH-\d|://|\bwww\.|:[a-z+-][\w+-]*:|\$[^$]+\$|[\w.]+@[\w-]+\.\w", re.I
)
"""What GitHub recognizes in text that is not code: users, issues, addresses, emoji, formulas."""
STYLES = {"em_open", "s_open", "heading_open", "blockquote_open", "bullet_list_open", "hr", "fence"}
STYLES |= {"ordered_list_open", "code_block"}


def active(markdown: str, expected: str = r"\Z") -> list[str]:
    """Return everything active in Markdown that does not match the pattern `expected`.

    Styles, lists, headings and the like count, too: text from outside must read as written.
    """
    return [one for one in _active(PARSER.parse(markdown)) if not re.match(expected, one)]


def _active(tokens: list[Token]) -> Iterator[str]:
    for token in tokens:
        if token.type == "inline":
            yield from _active(token.children or [])
        elif token.type in ("html_block", "html_inline"):
            yield f"html {token.content}"
        elif token.type in ("link_open", "image"):
            yield f"link {token.attrs.get('href') or token.attrs.get('src')}"
        elif token.type == "text":
            yield from (f"text {token.content}" for _ in RECOGNIZED.finditer(token.content))
        elif token.type in STYLES:
            yield f"style {token.type} {token.info}"


def read(markdown: str) -> str:
    """Return the text that a person reads."""
    inline = [one for one in PARSER.parse(markdown) if one.type == "inline"]
    return "\n".join("".join(part.content for part in one.children or []) for one in inline)
