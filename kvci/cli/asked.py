"""The options that say what to run, and the specification that they make."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from kvci.errors import UserError
from kvci.options import asks, options, overrides

if TYPE_CHECKING:
    from kvci.spec import Spec

Verb = Callable[..., Any]
INPUTS = click.option(
    "--inputs", envvar="KVCI_INPUTS", hidden=True, help="A workflow's inputs as JSON; options win."
)


def in_panels(
    only: Iterable[str] | None = None, more: Mapping[str, Iterable[str]] | None = None
) -> Callable[[Verb], Verb]:
    """The options of a specification, or of `only` these groups, each group under its title.

    `more` are flags of the verb's own that belong to a group.
    """
    some = [one for one in options() if only is None or one.group in set(only)]

    def add(verb: Verb) -> Verb:
        for group in reversed(list(dict.fromkeys(one.group for one in some))):
            flags = [one.flags[0] for one in some if one.group == group]
            flags += (more or {}).get(group, ())
            verb = click.option_panel(group, options=flags)(verb)
        return asks(only)(verb)

    return add


def asks_for_run(more: Mapping[str, Iterable[str]] | None = None) -> Callable[[Verb], Verb]:
    """All options that say what to run, laid over an EXPERIMENT file; `more` as for in_panels."""
    experiment = click.argument("experiment", type=click.Path(path_type=Path), required=False)
    return lambda verb: experiment(INPUTS(in_panels(more=more)(verb)))


def spec_of(experiment: Path | None, asked: dict[str, Any]) -> "Spec":
    """The specification of an experiment file, or a workflow's inputs, with the options over it.

    Raises UserError.
    """
    from kvci.jobs.inputs import inputs
    from kvci.spec import load

    form, given = asked.pop("inputs", None), overrides(asked)
    if not form:
        lacking = {"model", "arms", "dataset"} - given.keys()
        if experiment is None and lacking:
            raise UserError(
                "Give an experiment file, for example ci/experiments/demo.toml, or at least "
                "--model, --kv and --dataset."
            )
        return load(experiment, given)
    file, laid = inputs(form).asked()
    return load(experiment or file, laid | given)
