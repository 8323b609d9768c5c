"""Outcomes -> counts per arm. Counts only: what they mean is for the comparison to say."""

from collections import Counter
from collections.abc import Mapping

from rich.table import Table

from kvci.files import Document
from kvci.plan import INTERIM
from kvci.rundir.documents import Outcome
from kvci.taxonomy import INFRASTRUCTURE, NAMES, Class


class ArmSummary(Document):
    arm: str
    planned: int
    done: int
    submitted: int
    """Non-empty patches."""
    resolved: int
    infrastructure: int
    classes: dict[str, int]
    answer_tokens: int
    solve_s: float


class Summary(Document):
    run_id: str
    complete: bool
    arms: tuple[ArmSummary, ...]
    late: bool = False
    """The time budget ended it; another job goes on."""

    @property
    def happened(self) -> bool:
        """What was asked for happened: all trials are done, or as many as the time budget let, none
        by a fault of kvci's own, and no arm has infrastructure failures alone."""
        faults = any(arm.classes.get(Class.I4) for arm in self.arms)
        enough = self.complete or self.late
        return enough and not faults and all(a.done > a.infrastructure for a in self.arms)


def summarize(run_id: str, planned: Mapping[str, int], outcomes: list[Outcome]) -> Summary:
    """`planned` has each arm's trials."""
    made = []
    for arm, count in planned.items():
        mine = [outcome for outcome in outcomes if outcome.arm == arm]
        classes = Counter(outcome.cls for outcome in mine)
        made.append(
            ArmSummary(
                arm=arm,
                planned=count,
                done=len(mine),
                submitted=sum(outcome.patch_bytes > 0 for outcome in mine),
                resolved=classes[Class.OK],
                infrastructure=sum(classes[found] for found in INFRASTRUCTURE),
                classes={str(found): classes[found] for found in Class if classes[found]},
                answer_tokens=sum(outcome.answer_tokens for outcome in mine),
                solve_s=round(sum(outcome.solve_s for outcome in mine), 3),
            )
        )
    complete = all(arm.done == arm.planned for arm in made)
    return Summary(run_id=run_id, complete=complete, arms=tuple(made))


def infrastructure(outcomes: list[Outcome]) -> list[str]:
    """A line for each trial that infrastructure ended, or this arm's server alone."""
    return [
        f"{outcome.cls} {NAMES[outcome.cls]}: {outcome.arm} {outcome.instance} seed "
        f"{outcome.seed}: {' '.join((outcome.detail or outcome.why).split())[-300:]}"
        for outcome in outcomes
        if outcome.cls in INFRASTRUCTURE | {Class.A12}
    ]


def table(summary: Summary) -> Table:
    interim = "" if summary.complete else f" ({INTERIM})"
    shown = Table(title=summary.run_id + interim, title_justify="left")
    for column in ("Arm", "Trials", "Submitted", "Resolved", "Infrastructure", "How they ended"):
        shown.add_column(column, justify="left" if column[0] in "AH" else "right")
    for arm in summary.arms:
        ended = ", ".join(
            f"{count} {NAMES[Class(found)]} ({found})" for found, count in arm.classes.items()
        )
        cells = (f"{arm.done}/{arm.planned}", arm.submitted, arm.resolved, arm.infrastructure)
        shown.add_row(arm.arm, *(str(cell) for cell in cells), ended)
    return shown
