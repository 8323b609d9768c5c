"""The script that runs a row's tests, and swebench's description of the row."""

from swebench.harness.constants import EvalType
from swebench.harness.log_parsers import PARSER_REGISTRY
from swebench.harness.utils import make_test_spec
from swebench.types import TestSpec

from kvci.tasks import calibration
from kvci.tasks.row import Row


def script_of(row: Row) -> str:
    """Return the script that runs the tests: the one that the harness runs.

    The harness adds lines to the row's script that record the exit code of the tests. The scripts
    of the calibration suite have such lines; with a second one, the code would always be 0.
    """
    if row.repo == calibration.REPO:
        return row.eval_script
    script: str = spec_of(row).eval_script
    return script


def spec_of(row: Row) -> TestSpec:
    """Return swebench's description of the row. Raises ValueError if swebench cannot grade it."""
    if row.log_parser not in PARSER_REGISTRY:
        raise ValueError(f"swebench has no log parser {row.log_parser}")
    EvalType(row.eval_type)
    return make_test_spec(row.model_dump(mode="json"))
