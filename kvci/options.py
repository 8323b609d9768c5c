"""The command line's options for a specification, derived from the fields of `Spec`."""

import shlex
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click

from kvci import units
from kvci.errors import UserError
from kvci.spec import GROUPS, Spec

BASE_RATE = 0.3
"""The baseline's assumed rate, if neither a person nor an earlier record gives one."""
ICC = 0.5
"""The assumed share of the variance that lies between instances, if no person gives one."""
Verb = Callable[..., Any]
PLACEHOLDERS: dict[units.Read, str] = {
    units.seconds: "DURATION",
    units.gigabytes: "SIZE",
    units.mebibytes: "SIZE",
}
"""The function that reads a field's text -> the placeholder in the help."""


class Number(click.ParamType[Any]):
    """A number: `read` is int or float."""

    def __init__(self, read: type[int] | type[float]) -> None:
        self._read = read
        self.name, self._words = {
            int: ("integer", "a whole number"),
            float: ("number", "a number; write one, as in 0.05"),
        }[read]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._read(value)
        except ValueError:
            self.fail(f"'{value}' is not {self._words}", param, ctx)


class Whole(click.IntRange):
    """A whole number within limits."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(Number(int).convert(value, param, ctx), param, ctx)


class Real(click.FloatRange):
    """A number within limits."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(Number(float).convert(value, param, ctx), param, ctx)


class Quantity(click.ParamType[Any]):
    """A duration or a size with its unit; a bare number has the unit of the field."""

    def __init__(self, read: units.Read, positive: bool = False) -> None:
        self.name, self._read, self._positive = PLACEHOLDERS[read].lower(), read, positive

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            found = float(self._read(value))
            if self._positive and found <= 0:
                raise ValueError(f"'{value}' is not more than 0")
            return found
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Listed(click.ParamType[Any]):
    """Values separated by commas."""

    name = "list"

    def __init__(self, each: Callable[[str], Any]) -> None:
        self._each = each

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return [self._each(part.strip()) for part in value.split(",") if part.strip()]
        except ValueError:
            self.fail(
                f"'{value}' is not a list of whole numbers separated by commas; write it as 1,2,3",
                param,
                ctx,
            )


@dataclass(frozen=True)
class Option:
    """One field of a specification, as the command line and the reference show it."""

    field: str
    flags: tuple[str, ...]
    help: str
    group: str
    metavar: str
    envvar: str
    default: str
    """The default in words; empty if the field is required."""
    kind: Any

    @property
    def name(self) -> str:
        """The name in an experiment file."""
        own = self.field if self.field == "arms" else self.flags[0].removeprefix("--")
        return own.replace("-", "_")


def options() -> list[Option]:
    """Return all options by group, in the order of the fields."""
    found = list(_options())
    return [one for group in GROUPS for one in found if one.group == group]


def flags_of(fields: Iterable[str]) -> list[str]:
    """Return all flags of some fields."""
    return [flag for one in options() if one.field in fields for flag in one.flags]


def _options() -> Iterator[Option]:
    for name, field in Spec.model_fields.items():
        shown = field.json_schema_extra
        if not isinstance(shown, dict) or "group" not in shown:
            continue
        extra: dict[str, Any] = dict(shown)
        read = units.reader(field)
        kind = _kind(_plain(field.annotation), read)
        default = extra["default_text"]
        if not default and not field.is_required():
            default = units.SHOWN[read](field.default) if read else _shown(field.default)
        yield Option(
            field=name,
            flags=tuple(extra["flags"]) or (f"--{name.replace('_', '-')}",),
            help=field.description or "",
            group=extra["group"],
            metavar=extra["metavar"] or (PLACEHOLDERS[read] if read else ""),
            envvar=extra["envvar"],
            default=default,
            kind=kind,
        )


def _shown(value: Any) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _plain(annotation: Any) -> Any:
    """Return the type without None, and without the function that reads it."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return _plain(next(one for one in get_args(annotation) if one is not type(None)))
    return annotation


def _kind(plain: Any, read: units.Read | None) -> Any:
    """Return the click type of a field; `bool` stands for a flag."""
    if read:
        return Quantity(read)
    if get_origin(plain) is tuple and get_args(plain)[0] in (int, str):
        return Listed(get_args(plain)[0])
    if get_origin(plain) is Literal:
        return click.Choice(get_args(plain))
    return {int: Number(int), float: Number(float), bool: bool}.get(plain, click.STRING)


def planning(verb: Verb) -> Verb:
    """Add the options that only a plan reads."""
    for add in (
        click.option(
            "--expected-trial",
            "--trial-s",
            "expected_trial_s",
            type=Quantity(units.seconds, positive=True),
            metavar="DURATION",
            help="Expected time of one trial in its slot; a number without a unit is in seconds. "
            "[default: not known; then no cost is shown]",
        ),
        click.option(
            "--icc",
            type=Real(0, 1, max_open=True),
            metavar="ICC",
            help=f"Share of the variance that lies between instances. [default: {ICC}]",
        ),
        click.option(
            "--base-rate",
            type=Real(0, 1, True, True),
            metavar="RATE",
            help=f"Expected share of trials that the baseline resolves. [default: {BASE_RATE}]",
        ),
    ):
        verb = add(verb)
    return verb


def declare(one: Option) -> Callable[[Verb], Verb]:
    """Return the click decorator of one option."""
    told = f"{one.help} [default: {one.default or 'as in the experiment file'}]"
    shared: dict[str, Any] = {"help": told, "envvar": one.envvar or None}
    if one.kind is bool:
        return click.option(*one.flags, one.field, is_flag=True, default=None, **shared)
    return click.option(
        *one.flags,
        one.field,
        type=one.kind,
        multiple=one.field == "arms",
        metavar=one.metavar or None,
        **shared,
    )


def takes(*fields: str) -> Callable[[Verb], Verb]:
    """Return a decorator that adds the options of some fields."""
    by_field = {one.field: one for one in options()}

    def add(verb: Verb) -> Verb:
        for field in reversed(fields):
            verb = declare(by_field[field])(verb)
        return verb

    return add


def _words(line: str) -> list[str]:
    """Return the words of a line. Quotes group words; a backslash is kept, as regexes need it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters, lexer.escape = True, "", ""
    return list(lexer)


def overrides(given: dict[str, Any]) -> dict[str, Any]:
    """Return field -> value, for the options that were given."""
    found = {name: value for name, value in given.items() if value is not None}
    if not found.get("arms", True):
        found.pop("arms")
    if "arms" in found:
        found["arms"] = list(found["arms"])
    return found


def parse(
    line: str, more: Iterable[Callable[[Verb], Verb]] = (), refused: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return field -> value, for options in one line such as `--slots 4 --time-budget 5h`.

    `more` are the decorators of options that a specification does not have. `refused` is flag ->
    what to do instead, for options that this line may not set. Raises UserError if the line is not
    valid.
    """

    def verb(**_: Any) -> None: ...

    for one in options():
        verb = declare(replace(one, envvar=""))(verb)
    for add in more:
        verb = add(verb)
    command = click.command("options", add_help_option=False)(verb)
    try:
        words = _words(line)
        for flag in (word.partition("=")[0] for word in words):
            if flag in (refused or {}):
                raise ValueError(f"{flag} cannot be set here; {(refused or {})[flag]}")
        with command.make_context("options", words) as context:
            return overrides(dict(context.params))
    except (click.UsageError, ValueError) as error:
        problem = error.format_message() if isinstance(error, click.UsageError) else str(error)
        raise UserError(f"The options '{line}' are not valid: {problem.rstrip('.')}.") from None
