"""The look of the help, and the sentence that a command prints if it fails."""

import os
import sys
from typing import Any, NoReturn

import rich_click as click
from click.core import ParameterSource
from click.exceptions import NoArgsIsHelpError

from kvci.errors import UserError
from kvci.files import disk_full_error, is_disk_full
from kvci.streams import keep_streams
from kvci.text import guard_streams, in_job

HELP = click.RichHelpConfiguration(
    theme="default-slim",
    max_width=100,
    arguments_panel_title="Arguments",
    options_panel_title="Other",
    commands_before_options=True,
    default_panels_first=False,
    default_string="\\[default: {}]",
    force_terminal=False if in_job() else None,
    text_paragraph_linebreaks="\n\n",
)


class Verbs(click.RichGroup):
    """A group of commands. If a command fails, the group prints one sentence and exits 2.

    A command does its work to the end even if its output is lost. Then the exit status does not
    change, except that the status 2 replaces 0 if a file has only a part of the output.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        if sys.stdout is not sys.__stdout__:  # a test reads the output
            guard_streams()
            return super().main(*args, **kwargs)
        out = keep_streams()
        guard_streams()
        try:
            return super().main(*args, **kwargs)
        except SystemExit as ended:
            print(end="", flush=True)
            if ended.code or not out.incomplete:
                raise
            out.say()
            sys.exit(2)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            self._fail(ctx, str(error))
        except NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else ctx.command_path
            message = f"{_variable(error)}{error.format_message().rstrip('.')}"
            self._fail(ctx, f"{message}. See {path} --help.")
        except Exception as error:
            if is_disk_full(error):
                place = getattr(error, "filename", None) or "the written files"
                self._fail(ctx, str(disk_full_error(place)))
            # If the Docker engine does not answer, any call can fail. This is not a bug of kvci.
            if type(error).__module__.partition(".")[0] not in ("docker", "requests", "urllib3"):
                raise
            self._fail(
                ctx, f"Docker failed: {str(error)[:500]}; check that the Docker engine runs."
            )

    @staticmethod
    def _fail(ctx: click.Context, sentence: str) -> NoReturn:
        """Print the sentence, write it to the job's summary if there is one, and exit 2."""
        click.echo(f"kvci: {sentence}", err=True)
        if os.environ.get("GITHUB_STEP_SUMMARY"):
            from kvci.jobs.outputs import failed

            failed(sentence)
        ctx.exit(2)


def _variable(error: click.UsageError) -> str:
    """Return words that name the environment variable with the wrong value, if one has it."""
    if not isinstance(error, click.BadParameter) or not (error.ctx and error.param):
        return ""
    if error.ctx.get_parameter_source(error.param.name or "") is not ParameterSource.ENVIRONMENT:
        return ""
    return f"The environment variable {error.param.envvar} is not valid: "
