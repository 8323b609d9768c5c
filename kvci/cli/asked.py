"""Read the options that say what to run, and make a specification from them."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from kvci.errors import UserError
from kvci.options import options, overrides, takes
from kvci.spec import GROUPS

if TYPE_CHECKING:
    from kvci.spec import Spec

Verb = Callable[..., Any]
INPUTS = click.option(
    "--inputs",
    envvar="KVCI_INPUTS",
    hidden=True,
    help="A workflow's inputs as JSON; options override them.",
)


def in_panels(
    only: Iterable[str] | None = None, more: Mapping[str, Iterable[str]] | None = None
) -> Callable[[Verb], Verb]:
    """Return a decorator that adds the options of a specification, each group under its title.

    With `only`, it adds only the options of these groups. `more` is group -> flags, for flags of
    the command itself that the help shows in this group.
    """
    groups = GROUPS if only is None else list(only)
    some = [one for one in options() if one.group in groups]

    def add(verb: Verb) -> Verb:
        for group in reversed(list(dict.fromkeys(one.group for one in some))):
            flags = [one.flags[0] for one in some if one.group == group]
            flags += (more or {}).get(group, ())
            verb = click.option_panel(group, options=flags)(verb)
        return takes(*(one.field for one in some))(verb)

    return add


def asks_for_run(more: Mapping[str, Iterable[str]] | None = None) -> Callable[[Verb], Verb]:
    """Return a decorator that adds EXPERIMENT, and all options that say what to run.

    `more` has the same meaning as in `in_panels`.
    """
    experiment = click.argument("experiment", type=click.Path(path_type=Path), required=False)
    return lambda verb: experiment(INPUTS(in_panels(more=more)(verb)))


def spec_of(experiment: Path | None, asked: dict[str, Any]) -> "Spec":
    """Return the specification of an experiment file or of a workflow's inputs.

    The options in `asked` override its fields. Raises UserError if the specification is not valid.
    """
    from kvci.jobs.inputs import inputs
    from kvci.spec import load

    form, given = asked.pop("inputs", None), overrides(asked)
    if not form:
        flags = {"model": "--model", "arms": "--kv", "dataset": "--dataset"}
        missing = " and ".join(flag for name, flag in flags.items() if name not in given)
        if experiment is None and missing:
            raise UserError(
                f"There is nothing to run yet; give an experiment file, for example "
                f"ci/experiments/demo.toml, or add {missing}."
            )
        return load(experiment, given)
    file, laid = inputs(form).asked()
    return load(experiment or file, laid | given)
