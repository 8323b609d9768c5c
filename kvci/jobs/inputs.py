"""Read and validate the inputs of a workflow (`toJSON(inputs)`).

The inputs never reach a shell: a step passes them in the environment variable KVCI_INPUTS.
"""

import json
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar

import click
from pydantic import Field

from kvci import units
from kvci.errors import UserError
from kvci.files import Document
from kvci.options import Whole, flags_of, parse, planning
from kvci.problems import first_problem, matching
from kvci.rundir.documents import RUN_ID, RUN_ID_RULE

EXPERIMENTS, MODELS = Path("ci/experiments"), Path("ci/models")
INPUTS_MAX_CHARS = 65_535
"""GitHub's limit for the inputs of a dispatch, in characters."""
SHARDS_MAX, JOB_MAX_MINUTES = 256, 5 * 24 * 60
"""GitHub's limits: the number of jobs in a matrix, and the time of a self-hosted job."""
BUDGET_MAX_MINUTES = JOB_MAX_MINUTES - 60
"""One hour is left for the job's last steps."""
FILLED = ("model", "kv", "dataset", "limit", "context", "margin")
"""The inputs that the form fills in. The file of an experiment replaces them."""
RUNNER_FIELDS = ("engine", "out", "mirror", "disk_reserve_gb", "disk_budget_gb")
WORKFLOW_FIELDS = ("shard", "start")
REFUSED = {
    **{flag: "the runner sets it" for flag in flags_of(RUNNER_FIELDS)},
    **{flag: "the workflow sets it" for flag in flags_of(WORKFLOW_FIELDS)},
    "--shard": "the workflow sets it; write --shards COUNT to divide the run",
    "--run-id": "write the id into the input run_id",
    "--measured": "the plan has no run folder; write --expected-trial DURATION",
}
"""Option that the input `options` refuses -> what to do instead."""
SHARDS = click.option("--shards", type=Whole(1, SHARDS_MAX))
PLAN_ONLY = {"shards", "base_rate", "icc", "expected_trial_s"}
"""Options of the input `options` that are no fields of a specification."""

Form = TypeVar("Form", bound=Document)
Number = Annotated[int, Field(gt=0, lt=1_000_000_000)]
Text = Annotated[str, Field(max_length=2000)]
Name = Annotated[
    str,
    matching(
        "[A-Za-z0-9][A-Za-z0-9._-]*",
        "use letters, digits and . _ -, and start with a letter or a digit",
    ),
]
Dataset = Annotated[
    str,
    matching(
        r"[A-Za-z0-9][\w./:=,@-]*",
        "use letters, digits and . _ - / : = , @, and start with a letter or a digit",
    ),
]
RunId = Annotated[str, matching(RUN_ID, RUN_ID_RULE)]
Classes = Annotated[
    str,
    matching(
        r"[AI]\d{1,2}[ab]?(, *[AI]\d{1,2}[ab]?)*",
        "write classes with commas, for example I1,I2 for I1 environment and I2 server",
    ),
]


class Inputs(Document):
    """The form of benchmark.yml. An empty input is None."""

    experiment: Name | None = None
    """The name of a file in ci/experiments."""
    model: Name | None = None
    """The name of a file in ci/models."""
    kv: Text | None = None
    """The arms, the baseline first. Commas separate them, or semicolons if a flag has a comma."""
    dataset: Dataset | None = None
    limit: Number | None = None
    context: Number | None = None
    margin: Annotated[float, Field(gt=0, lt=1)] | None = None
    run_id: RunId | None = None
    """The run to resume. A new run gets its id from the workflow run."""
    options: Text | None = None
    """More options, written as on the command line."""
    publish: bool = False

    @cached_property
    def more(self) -> dict[str, Any]:
        """Field -> value of the input `options`. Raises UserError if the input is not valid."""
        return parse(self.options or "", (planning, SHARDS), REFUSED)

    @property
    def shards(self) -> int | None:
        return self.more.get("shards")

    @property
    def base_rate(self) -> float | None:
        """The expected share of trials that the baseline resolves. Only the plan uses it."""
        return self.more.get("base_rate")

    @property
    def icc(self) -> float | None:
        """The share of the variance that lies between instances. Only the plan uses it."""
        return self.more.get("icc")

    @property
    def expected_trial_s(self) -> float | None:
        """The expected time of a trial, in seconds. Only the plan uses it."""
        return self.more.get("expected_trial_s")

    @property
    def time_budget_s(self) -> float | None:
        return self.more.get("time_budget_s")

    def asked(self) -> tuple[Path | None, dict[str, Any]]:
        """Return the path of the experiment file, and the fields that override the file's fields.

        With an experiment, these are the fields of the input `options` alone. kvci cannot know
        which of the other inputs a person has changed: the form of each repository has its own
        defaults.

        Raises UserError if the input `options` is not valid.
        """
        filled = () if self.experiment else FILLED
        given = self.model_dump(include=set(filled), exclude_none=True)
        fields = given | {name: self.more[name] for name in self.more.keys() - PLAN_ONLY}
        if "kv" in fields:
            fields["arms"] = fields.get("arms") or _arms(fields["kv"])
            del fields["kv"]
        if "model" in given and fields["model"] == given["model"]:
            fields["model"] = str(MODELS / f"{given['model']}.toml")
        if self.shards:
            fields["shard"] = f"1/{self.shards}"
        file = EXPERIMENTS / f"{self.experiment}.toml" if self.experiment else None
        return file, fields


class RerunInputs(Document):
    """The form of rerun.yml: a run, and which of its trials to repeat."""

    run: RunId
    """The id of the run."""
    classes: Classes | None = None
    filter: Text | None = None
    errors: bool = False
    publish: bool = False


def _arms(text: str) -> list[str]:
    arms = text.split(";" if ";" in text else ",")
    return [arm.strip() for arm in arms if arm.strip()]


def inputs(text: str) -> Inputs:
    """Parse the form of benchmark.yml. Raises UserError if an input is not valid."""
    form = _form(text, Inputs)
    budget_s = form.time_budget_s or 0
    if budget_s > 60 * BUDGET_MAX_MINUTES:
        raise UserError(
            f"The time budget {units.duration(budget_s)} is longer than a job may run; give at "
            f"most {units.duration(60.0 * BUDGET_MAX_MINUTES)}."
        )
    return form


def rerun_inputs(text: str) -> RerunInputs:
    """Parse the form of rerun.yml. Raises UserError if an input is not valid."""
    return _form(text, RerunInputs)


def _form(text: str, kind: type[Form]) -> Form:
    if len(text) > INPUTS_MAX_CHARS:
        raise UserError("The workflow's inputs are longer than GitHub allows; shorten them.")
    try:
        given = json.loads(text)
        if not isinstance(given, dict):
            raise ValueError("they are not a JSON object")
        if bad := [name for name, value in given.items() if _has_control_character(value)]:
            raise UserError(
                f"The input {bad[0][:40]!r} contains a newline or another control character; write "
                "it in one line of plain text."
            )
        filled = {name: value for name, value in given.items() if not _is_empty(value)}
        return kind.model_validate(filled)
    except RecursionError:
        raise UserError(
            "The workflow's inputs are nested too deeply; start the workflow from its form."
        ) from None
    except ValueError as error:
        raise UserError(f"The workflow's inputs are not valid: {first_problem(error)}.") from None


def _has_control_character(value: object) -> bool:
    return isinstance(value, str) and bool(re.search(r"[\x00-\x1f\x7f\u2028\u2029]", value))


def _is_empty(value: object) -> bool:
    """True if an input was not filled in: GitHub then passes an empty text."""
    return isinstance(value, str) and not value.strip()
