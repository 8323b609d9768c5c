"""The kinds of bug. Each has a small function, a right line, a wrong line, and calls.

`{k}` is a constant that the generator chooses at random, and `{k1}` is that constant plus 1. The
expected results are not in this file. The generator gets them from the right function, so no
expected result can be wrong.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Bug:
    kind: str
    parameters: str
    body: str
    """Python lines with `{line}` in place of the right or wrong line."""
    right: str
    wrong: str
    calls: tuple[str, ...]
    """The arguments of each call.

    For every constant, at least one call must give different results with the two lines.
    """

    def source(self, name: str, constant: int, broken: bool) -> str:
        body = self.body.replace("{line}", self.wrong if broken else self.right)
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        lines = lines.replace("{k1}", str(constant + 1)).replace("{k}", str(constant))
        return f"def {name}({self.parameters}):\n{lines}"


NUMBERS = ("[3, 1, 4, 1, 5]", "[2, 7]", "[9]")
BUGS = (
    Bug("operator", "a, b", "{line}", "return a * {k} + b", "return a * {k} - b", ("2, 3", "1, 1")),
    Bug(
        "comparison",
        "items",
        "kept = []\nfor item in items:\n    {line}\n        kept.append(item)\nreturn kept",
        "if item > {k}:",
        "if item < {k}:",
        ("[1, 50, 2, 60]", "[40, 0]"),
    ),
    Bug("constant", "a", "{line}", "return a * {k}", "return a * {k1}", ("3", "5")),
    Bug(
        "range",
        "n",
        "total = {k}\n{line}\n    total += i\nreturn total",
        "for i in range(n + 1):",
        "for i in range(n):",
        ("4", "7"),
    ),
    Bug("index", "items", "{line}", "return items[-1] + {k}", "return items[0] + {k}", NUMBERS),
    Bug(
        "method",
        "text",
        "{line}",
        "return text.upper() * {k}",
        "return text.lower() * {k}",
        ('"aB"',),
    ),
    Bug(
        "builtin", "items", "{line}", "return max(items) - {k}", "return min(items) - {k}", NUMBERS
    ),
    Bug(
        "returned",
        "items",
        "total, count = {k}, 0\nfor item in items:\n    total += item\n    count += 1\n{line}",
        "return total",
        "return count",
        NUMBERS,
    ),
    Bug(
        "negation",
        "items",
        "{line}\n    return {k}\nreturn len(items)",
        "if not items:",
        "if items:",
        ("[]", "[1] * 50"),
    ),
    Bug("order", "a, b", "{line}", "return a - b + {k}", "return b - a + {k}", ("9, 2", "1, 5")),
    Bug(
        "slice", "items", "{line}", "return items[1:] + [{k}]", "return items[:1] + [{k}]", NUMBERS
    ),
    Bug(
        "boolean",
        "a, b",
        "{line}",
        "return a > {k} and b > {k}",
        "return a > {k} or b > {k}",
        ("50, 0", "50, 50"),
    ),
    Bug(
        "increment",
        "items",
        "total = {k}\nfor item in items:\n    {line}\nreturn total",
        "total += item",
        "total = item",
        NUMBERS,
    ),
)
