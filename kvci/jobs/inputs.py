"""What a workflow was asked for: `toJSON(inputs)`, validated before anything else is done with it.

Nothing of it reaches a shell: a step hands it on in the environment, as KVCI_INPUTS.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field

from kvci.errors import UserError
from kvci.files import Document, first_problem

EXPERIMENTS, MODELS = Path("ci/experiments"), Path("ci/models")
INPUTS_MAX_CHARS = 65_535
"""GitHub's own limit of a dispatch's inputs."""


Form = TypeVar("Form", bound=Document)
RUN_ID = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,150}$"
Number = Annotated[int, Field(gt=0, lt=1_000_000_000)]
SHARDS_MAX, BUDGET_MAX_MINUTES = 256, 5 * 24 * 60 - 60
"""GitHub's own limits: of a matrix, and of a self-hosted job less an hour for what comes after."""
SAME = {"dataset", "filter", "limit", "context", "slots", "temperature", "margin"}
"""Inputs that a spec calls by the same name."""
Share = Annotated[float, Field(gt=0, lt=1)]
Text = Annotated[str, Field(max_length=500)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Inputs(Document):
    """All are texts, numbers or truths of a form; what is left empty is the experiment's."""

    experiment: Name | None = None
    """The name of a file in ci/experiments."""
    model: Name | None = None
    """The name of a file in ci/models."""
    kv: Text | None = None
    """Arms with commas between, or semicolons where flags hold commas; the baseline first."""
    dataset: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w./:=,@-]*$")] | None = None
    filter: Text | None = None
    limit: Number | None = None
    context: Number | None = None
    slots: Number | None = None
    seeds: Annotated[str, Field(pattern=r"^\d{1,9}(, *\d{1,9})*$", max_length=500)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    shards: Annotated[int, Field(gt=0, le=SHARDS_MAX)] | None = None
    margin: Share | None = None
    time_budget: Annotated[int, Field(gt=0, le=BUDGET_MAX_MINUTES)] | None = None
    """Minutes."""
    base_rate: Share | None = None
    """The share that the baseline is expected to resolve, for the plan alone."""
    trial_s: Number | None = None
    """Seconds that a trial is expected to take, for the plan alone."""
    run_id: Annotated[str, Field(pattern=RUN_ID)] | None = None
    """Of a run to go on with; a new one is named by the workflow's run."""
    publish: bool = False

    def asked(self) -> tuple[Path | None, dict[str, Any]]:
        """The experiment's file and what is laid over it, in a spec's words."""
        same = self.model_dump(include=SAME)
        lists = {
            "model": self.model and str(MODELS / f"{self.model}.toml"),
            "arms": self.kv and _arms(self.kv),
            "seeds": self.seeds and [int(seed) for seed in self.seeds.split(",")],
            "shard": self.shards and f"1/{self.shards}",
            "time_budget_s": self.time_budget and 60.0 * self.time_budget,
        }
        given = {name: value for name, value in (same | lists).items() if value is not None}
        file = EXPERIMENTS / f"{self.experiment}.toml" if self.experiment else None
        return file, given


class RerunInputs(Document):
    """Of rerun.yml: which trials of which run."""

    run: Annotated[str, Field(pattern=RUN_ID)]
    """Its id."""
    classes: Annotated[str, Field(pattern=r"^[AI]\d{1,2}[ab]?(, *[AI]\d{1,2}[ab]?)*$")] | None = (
        None
    )
    filter: Text | None = None
    errors: bool = False
    publish: bool = False


def _arms(text: str) -> list[str]:
    arms = text.split(";" if ";" in text else ",")
    return [arm.strip() for arm in arms if arm.strip()]


def inputs(text: str) -> Inputs:
    """Raises UserError."""
    return _form(text, Inputs)


def rerun_inputs(text: str) -> RerunInputs:
    """Raises UserError."""
    return _form(text, RerunInputs)


def _form(text: str, kind: type[Form]) -> Form:
    if len(text) > INPUTS_MAX_CHARS:
        raise UserError("The workflow's inputs are longer than GitHub lets them be.")
    try:
        given = json.loads(text)
        if not isinstance(given, dict):
            raise ValueError("they are no object")
        if bad := [name for name, value in given.items() if _hidden(value)]:
            raise UserError(f"The input {bad[0][:40]!r} holds a line's end or a control character.")
        filled = {name: value for name, value in given.items() if not _empty(value)}
        return kind.model_validate(filled)
    except RecursionError:
        raise UserError("The workflow's inputs are no JSON that a form makes.") from None
    except ValueError as error:
        raise UserError(f"The workflow's inputs are not valid: {first_problem(error)}.") from None


def _hidden(value: object) -> bool:
    return isinstance(value, str) and bool(re.search(r"[\x00-\x1f\x7f\u2028\u2029]", value))


def _empty(value: object) -> bool:
    """What a form gives where nobody filled it in."""
    return isinstance(value, str) and not value.strip()
