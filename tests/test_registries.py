"""What is added in one place, and which second place must then change."""

import json
import re
from collections.abc import Iterator
from typing import Any, get_args

import click
import pytest
import yaml

from kvci.cli import main
from kvci.cli.experiments import plan, run
from kvci.cli.reference import PAGES
from kvci.compare.endpoint import ENDPOINTS
from kvci.doctor import CHECKS
from kvci.jobs.inputs import FILLED, REFUSED, Inputs, RerunInputs
from kvci.options import options, parse, planning
from kvci.run.sandboxes import KINDS
from kvci.spec import GROUPS, Spec, load
from kvci.tasks.dataset import NAMED
from tests.conftest import ROOT

FORMS = [
    ROOT / ".github" / "workflows" / "benchmark.yml",
    ROOT / "ci" / "adopt" / "benchmark.yml",
]
RERUN_FORMS = [
    ROOT / ".github" / "workflows" / "rerun.yml",
    ROOT / "ci" / "adopt" / "rerun.yml",
]


def choices(field: str) -> set[str]:
    """The words that a specification accepts for a field."""
    return set(get_args(Spec.model_fields[field].annotation))


def test_sandboxes_are_the_specifications() -> None:
    assert choices("sandbox") == {"auto", *KINDS}, (
        "KINDS of kvci/run/sandboxes.py and `sandbox` of kvci/spec/specification.py differ"
    )


def test_doctor_checks_every_sandbox() -> None:
    assert CHECKS.keys() == KINDS.keys(), (
        "CHECKS of kvci/doctor.py and KINDS of kvci/run/sandboxes.py differ"
    )


def test_endpoints_are_the_specifications() -> None:
    assert choices("primary") == set(ENDPOINTS), (
        "ENDPOINTS of kvci/compare/endpoint.py and `primary` of kvci/spec/specification.py differ"
    )


@pytest.mark.parametrize("field", ["sandbox", "primary"])
def test_help_names_every_choice(field: str) -> None:
    text = Spec.model_fields[field].description or ""
    shown = {"bwrap": "bubblewrap", "docker": "Docker"}
    assert [one for one in choices(field) - {"auto"} if shown.get(one, one) not in text] == []


def test_every_input_is_used() -> None:
    """An input is filled in, or is one of those that asked() and prepare read by name."""
    by_name = {"experiment", "run_id", "options", "publish"}
    assert set(Inputs.model_fields) == {*FILLED} | by_name


def test_form_accepts_or_refuses_each_option_of_run_and_plan() -> None:
    offered = {flag for one in (run, plan) for param in one.params for flag in param.opts}
    offered -= {"experiment", "--inputs", "--json"}
    accepted = {flag for one in options() for flag in one.flags} - REFUSED.keys()
    planned = click.command()(planning(lambda: None)).params
    accepted |= {flag for param in planned for flag in param.opts}
    assert offered == accepted | REFUSED.keys()


def test_guide_explains_each_input() -> None:
    guide = (ROOT / "ci" / "README.md").read_text().partition("## The form")[2]
    rows = [line for line in guide.partition("If you give")[0].splitlines() if line[:3] == "| *"]
    named = {name for row in rows for name in re.findall(r"\*(\w+)\*", row.split("|")[1])}
    assert named == set(Inputs.model_fields), "Inputs and the form's table in ci/README.md differ"


@pytest.mark.parametrize("path", PAGES)
def test_reference_is_generated(path: str) -> None:
    """`make reference` writes it again."""
    assert (ROOT / path).read_text() == PAGES[path](), "make reference"


def test_every_field_is_an_option_with_help() -> None:
    offered = {one.field: one for one in options()}
    assert set(Spec.model_fields) - offered.keys() == {"rerun"}
    for one in offered.values():
        assert one.help.endswith(".") and one.group in GROUPS
        assert one.default or Spec.model_fields[one.field].is_required()


def values(command: click.Command, path: str) -> Iterator[tuple[str, str]]:
    """Yield the flag and the help of each option that takes a value, also of inner commands."""
    context = click.Context(command)
    for option in command.params:
        shown = option.get_help_record(context)
        if isinstance(option, click.Option) and not option.is_flag and shown:
            yield f"{path} {option.opts[0]}", shown[1]
    for name, inner in getattr(command, "commands", {}).items():
        yield from values(inner, f"{path} {name}")


def test_every_option_with_a_value_shows_its_default() -> None:
    found = dict(values(main, "kvci"))
    assert "kvci images pull --limit" in found and "kvci ci collect --before" in found
    assert [name for name, text in found.items() if not re.search(r"\[(default: |req)", text)] == []


def form(path: Any) -> dict[str, Any]:
    """The inputs of a workflow's dispatch."""
    workflow = yaml.safe_load(path.read_text())
    inputs: dict[str, Any] = workflow[True]["workflow_dispatch"]["inputs"]  # YAML reads `on` so
    return inputs


@pytest.mark.parametrize("path", FORMS, ids=["ours", "adopted"])
def test_form_has_at_most_ten_inputs_filled_in(path: Any) -> None:
    inputs = form(path)
    assert set(inputs) == set(Inputs.model_fields), (
        f"Inputs of kvci/jobs/inputs.py and the form of {path} differ"
    )
    assert len(inputs) <= 10, "a form of GitHub has room for ten inputs; use the options line"
    filled = {name: one["default"] for name, one in inputs.items() if one.get("default")}
    assert set(filled) == {*FILLED}, f"FILLED of kvci/jobs/inputs.py and {path} differ"
    assert inputs == form(FORMS[0]), "the two forms differ"
    assert set(inputs["dataset"]["options"]) == {"calibration", *NAMED}
    assert all(one["description"] for one in inputs.values())


@pytest.mark.parametrize("path", RERUN_FORMS, ids=["ours", "adopted"])
def test_rerun_form_has_its_inputs(path: Any) -> None:
    assert set(form(path)) == set(RerunInputs.model_fields)


@pytest.mark.parametrize("path", [FORMS[0], RERUN_FORMS[0]], ids=["benchmark", "rerun"])
def test_call_and_form_have_same_inputs(path: Any) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert set(workflow[True]["workflow_call"]["inputs"]) == set(form(path))


@pytest.mark.parametrize("path", [FORMS[1], RERUN_FORMS[1]], ids=["benchmark", "rerun"])
def test_adopted_form_passes_every_input(path: Any) -> None:
    (job,) = yaml.safe_load(path.read_text())["jobs"].values()
    assert job["with"] == {name: f"${{{{ inputs.{name} }}}}" for name in form(path)}


def test_form_filled_in_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    defaults = {name: one["default"] for name, one in form(FORMS[0]).items() if "default" in one}
    inputs = Inputs.model_validate(defaults)
    file, asked = inputs.asked()
    spec = load(file, asked)
    assert [arm.kv_type for arm in spec.arms] == ["f16/f16", "q8_0/q8_0", "q4_0/q4_0"]


def test_example_of_options_line_is_valid() -> None:
    described = form(FORMS[0])["options"]["description"]
    line = described.partition("e.g. ")[2]
    assert Inputs.model_validate_json(json.dumps({"options": line})).more["slots"] == 4


def test_options_and_file_use_same_names(tmp_path: Any) -> None:
    (tmp_path / "m.gguf").touch()
    text = f'model = "{tmp_path}/m.gguf"\narms = ["f16/f16"]\ndataset = "lite"\n'
    (tmp_path / "e.toml").write_text(text + 'time_budget = "5h"\nmemory = "2GiB"\ntest_s = 9\n')
    spec = load(tmp_path / "e.toml", parse("--disk-reserve 500MB"))
    assert (spec.time_budget_s, spec.memory_mib, spec.test_s) == (18000.0, 2048, 9.0)
    assert spec.disk_reserve_gb == 0.5
