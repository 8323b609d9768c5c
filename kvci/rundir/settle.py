"""Find class A12: a server that fails in only one arm. Only all arms together can show it."""

from collections.abc import Sequence

from kvci.rundir.documents import Outcome
from kvci.taxonomy import INFRASTRUCTURE, Class, Observed, classify


def settle(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes of done trials, with I2 changed to A12 if only this arm's server fails.

    I2 becomes A12 if the failure repeats, and another arm completed the same instance and seed.
    """
    outcomes = [outcome for outcome in outcomes if not outcome.waits]
    completed = {(o.instance, o.seed, o.arm) for o in outcomes if o.cls not in INFRASTRUCTURE}
    settled = []
    for outcome in outcomes:
        if outcome.cls is Class.I2:
            others = {
                arm
                for name, seed, arm in completed
                if (name, seed) == (outcome.instance, outcome.seed) and arm != outcome.arm
            }
            cls, why = classify(
                Observed(
                    exit=outcome.exit,
                    verdict=outcome.verdict,
                    other_arm_completed=bool(others),
                    server_failures=outcome.server_failures,
                )
            )
            outcome = outcome.model_copy(update={"cls": cls, "why": why})
        settled.append(outcome)
    return settled
