"""What only all arms together can tell: a server that fails in one arm alone (class A12)."""

from collections.abc import Sequence

from kvci.rundir.documents import Outcome
from kvci.taxonomy import INFRASTRUCTURE, Class, Observed, classify


def settle(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes of what is done, with I2 turned into A12 where another arm completed the same
    trial."""
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
