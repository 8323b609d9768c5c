"""An experiment with a known answer: on the plain model no KV type harms, on its twin q4_0 does.

Both do the same in f16; the twin's keys have outlier channels, as those of large models have
(`model.py`). If what is known does not come out, a verdict of this machine is not to be
trusted.
"""

from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from kvci.compare.caution import beyond_chance
from kvci.compare.compare import compare
from kvci.compare.findings import ArmComparison, Comparison
from kvci.compare.side import own_side
from kvci.errors import UserError
from kvci.report.comparison import verdict
from kvci.report.update import record_run
from kvci.run.experiment import run
from kvci.serve.gguf import locate
from kvci.spec import load
from kvci.stats.decide import Claim

MODELS = ("plain", "twin")
HARMED = {("twin", "q4_0/q4_0")}
"""Where harm is known to be; everywhere else there is none."""
KNOWN = {True: "harm", False: "no harm"}
ENOUGH, ENOUGH_STRONG = 20, 6
"""Instances; with fewer, harm that is there may not show."""
MARGIN = 0.25
"""Of the instances: so few can show no smaller harm to be absent."""
ARMS = ("f16/f16", "f16/f16 -ub 32", "q8_0/q8_0", "q4_0/q4_0")
WORDS = (
    "Harm shown: more was lost than chance would lose. "
    f"Non-inferior: not more than {MARGIN:.0%} of the instances is lost. "
    "Inconclusive: so few instances show neither. "
    "The control is the baseline with its sums in another order; what differs there is noise, "
    "and where nothing differs the noise is not measured."
)


def asked(model: str, instances: int, out: str, strong: bool = False) -> dict[str, object]:
    """The spec of one of the two runs."""
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


def demo(out: str, instances: int | None, console: Console, strong: bool = False) -> bool:
    """Run both models, show what is claimed beside what is known; True if they agree.

    Raises UserError if so few instances could not show what is known.
    """
    enough = ENOUGH_STRONG if strong else ENOUGH
    instances = instances or enough
    if instances < enough:
        raise UserError(
            f"{instances} instances can miss the harm that is known to be there; "
            f"give at least {enough}{'' if strong else f', or {ENOUGH_STRONG} with --strong'}."
        )
    start = datetime.now(UTC).strftime("%Y%m%d_%H%M%S")
    specs = {model: load(None, asked(model, instances, out, strong)) for model in MODELS}
    for spec in specs.values():
        locate(spec.model)  # what cannot be had is said before anything has run
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
    console.print(WORDS)
    for model, (path, comparison) in found.items():
        for warning in comparison.warnings:
            console.print(f"{model}: warning: {warning}")
        console.print(
            f"{model}: kvci compare {path} shows all of it, {path}/BENCHMARKS.md its rows"
        )
    fine = all(
        right(model, arm, comparison.alpha)
        for model, (_, comparison) in found.items()
        for arm in comparison.arms
    )
    console.print(
        "What is known came out."
        if fine
        else "What is known did NOT come out: do not trust a verdict of this machine."
    )
    return fine


def right(model: str, arm: ArmComparison, alpha: float) -> bool:
    """The control may differ by chance alone. What is harmless may be inconclusive, not harmful."""
    if arm.control:
        return not beyond_chance(arm, alpha)
    return (arm.claim in (Claim.HARM, Claim.HARM_WITHIN)) == ((model, arm.kv) in HARMED)


def _table(found: dict[str, Comparison]) -> Table:
    table = Table(title="What is claimed, and what is known", title_justify="left")
    for column in ("Model", "Arm", "Resolved", "Claimed", "Known", ""):
        table.add_column(column, justify="right" if column == "Resolved" else "left")
    for model, comparison in found.items():
        for arm in comparison.arms:
            pairs = arm.valid
            if arm is comparison.arms[0]:
                first = f"{pairs.both + pairs.only_baseline}/{pairs.pairs}"
                table.add_row(model, comparison.baseline_kv, first, "the baseline", "", "")
            known = "the same" if arm.control else KNOWN[(model, arm.kv) in HARMED]
            table.add_row(
                model,
                arm.kv,
                f"{pairs.both + pairs.only_arm}/{pairs.pairs}",
                verdict(comparison, arm),
                known,
                "as known" if right(model, arm, comparison.alpha) else "NOT as known",
            )
    return table
