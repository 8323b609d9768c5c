"""An experiment with a known answer: no KV type harms the plain model; q4_0 harms its twin.

Both models compute the same function in f16. The twin's keys have outlier channels, like the keys
of large models (`model.py`). If a machine does not reproduce the known answer, do not trust the
machine's claims.
"""

from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table

from kvci.compare.caution import beyond_chance
from kvci.compare.compare import compare
from kvci.compare.findings import ArmComparison, Comparison
from kvci.compare.side import own_side
from kvci.console import Terminal
from kvci.errors import UserError
from kvci.report.claims import claim_text
from kvci.report.update import record_run
from kvci.run.experiment import run
from kvci.serve.gguf import locate
from kvci.spec import load
from kvci.stats.decide import Claim

MODELS = ("plain", "twin")
HARMED = {("twin", "q4_0/q4_0")}
"""(model, KV type) with known harm. No other KV type harms a model."""
KNOWN = {True: "harm", False: "no harm"}
INSTANCES_MIN, INSTANCES_MIN_STRONG = 20, 6
"""With fewer instances, the experiment may not show the known harm."""
MARGIN = 0.25
"""A share of the instances. So few instances show non-inferiority only with a wide margin."""
ARMS = ("f16/f16", "f16/f16 -ub 32", "q8_0/q8_0", "q4_0/q4_0")
LEGEND = (
    "Harm shown: the arm loses more than chance explains. "
    f"Non-inferior: the arm loses at most {MARGIN:.0%} of the instances. "
    "Inconclusive: the instances are too few to show either. "
    "The control repeats the baseline, but adds its numbers in another order. So a difference "
    "between the two is noise. If there is no difference, the noise is not measured."
)


def spec_fields(model: str, instances: int, out: str, strong: bool = False) -> dict[str, object]:
    """Return the fields of the specification for the model `plain` or `twin`."""
    package = f"kvci.demo.model:{'strong_twin' if strong and model == 'twin' else model}"
    return {
        "model": {"name": f"kvci-calibration-{model}", "package": package, "weights": "F16"},
        "arms": ARMS,
        "dataset": f"calibration:split=test,functions=8,files=3,count={instances}",
        "engine": "embedded",
        "context": 4096,
        "slots": 2,
        "threads": 1,
        "max_steps": 10,
        "max_tokens": 128,
        "block_size": instances,
        "command_s": 10.0,
        "test_s": 30.0,
        "margin": MARGIN,
        "out": out,
    }


def demo(out: str, instances: int | None, console: Terminal, strong: bool = False) -> bool:
    """Run both models, and show the claims next to the known answer.

    Return True if the claims agree with the known answer. Raises UserError if `instances` are too
    few to show the known harm.
    """
    enough = INSTANCES_MIN_STRONG if strong else INSTANCES_MIN
    instances = instances or enough
    if instances < enough:
        strong_hint = "" if strong else f", or {INSTANCES_MIN_STRONG} with --strong"
        raise UserError(
            f"{instances} instances are too few to show the known harm; give at least "
            f"{enough}{strong_hint}."
        )
    start = datetime.now(UTC).strftime("%Y%m%d_%H%M%S")
    specs = {model: load(None, spec_fields(model, instances, out, strong)) for model in MODELS}
    for spec in specs.values():
        locate(spec.model)  # a missing model is reported before anything runs
    found: dict[str, tuple[Path, Comparison]] = {}
    for model, spec in specs.items():
        path, summary = run(
            spec,
            f"demo-{model}-{start}",
            console,
            demo=True,
        )
        if not summary.succeeded:
            return False
        records = record_run(path, path, path).records
        found[model] = (path, compare([own_side(record) for record in records]))
    console.print(_table({model: comparison for model, (_, comparison) in found.items()}))
    console.print(LEGEND)
    for model, (path, comparison) in found.items():
        for warning in comparison.warnings:
            console.print(f"{model}: warning: {warning}")
        console.print(f"{model}: for details run kvci compare {path} or read {path}/BENCHMARKS.md")
    reproduced = all(
        agrees(model, arm, comparison.alpha)
        for model, (_, comparison) in found.items()
        for arm in comparison.arms
    )
    console.print(
        "The known answer is reproduced."
        if reproduced
        else "The known answer is NOT reproduced; do not trust claims of this machine."
    )
    return reproduced


def agrees(model: str, arm: ArmComparison, alpha: float) -> bool:
    """True if the claim about an arm agrees with the known answer.

    A control agrees if it differs only by chance. An arm with known harm agrees if its claim is
    harm. Any other arm agrees if its claim is not harm; the claim may be inconclusive.
    """
    if arm.control:
        return not beyond_chance(arm, alpha)
    return (arm.claim in (Claim.HARM, Claim.HARM_WITHIN)) == ((model, arm.kv) in HARMED)


def _table(found: dict[str, Comparison]) -> Table:
    table = Table(title="Claims and the known answer", title_justify="left")
    for column in ("Model", "Arm", "Resolved", "Claim", "Known", ""):
        table.add_column(column, justify="right" if column == "Resolved" else "left")
    for model, comparison in found.items():
        for arm in comparison.arms:
            pairs = arm.valid
            if arm is comparison.arms[0]:
                first = f"{pairs.both + pairs.only_baseline}/{pairs.pairs}"
                table.add_row(model, comparison.baseline_kv, first, "the baseline", "", "")
            known = "no difference" if arm.control else KNOWN[(model, arm.kv) in HARMED]
            table.add_row(
                model,
                arm.kv,
                f"{pairs.both + pairs.only_arm}/{pairs.pairs}",
                claim_text(comparison, arm),
                known,
                "agrees" if agrees(model, arm, comparison.alpha) else "DISAGREES",
            )
    return table
