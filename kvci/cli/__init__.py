"""The command line. A command contains no logic, and imports the code that it needs."""

import rich_click as click

from kvci import __version__
from kvci.cli.experiments import demo, plan, rerun, run, scripted
from kvci.cli.groups import HELP, Verbs
from kvci.cli.machine import doctor, images, inspect, serve
from kvci.cli.results import compare, evidence, grade, import_, publish, record
from kvci.cli.workflows import ci


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.command_panel("Run", commands=["demo", "plan", "run", "rerun", "grade"])
@click.command_panel("Results", commands=["compare", "record", "publish", "evidence", "import"])
@click.command_panel("Machine", commands=["doctor", "inspect", "serve", "images"])
@click.command_panel("Workflows", commands=["ci"])
@click.rich_config(help_config=HELP)
@click.version_option(__version__)
def main() -> None:
    """Find out which KV-cache types of llama.cpp harm your coding agent, and what they cost.

    Start with `kvci demo`, an experiment with a known answer. Each command has its own --help.
    """


for verb in (
    *(demo, plan, run, rerun, grade, scripted),
    *(compare, record, publish, evidence, import_),
    *(doctor, inspect, serve, images, ci),
):
    main.add_command(verb)
